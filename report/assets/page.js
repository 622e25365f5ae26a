
(function () {
"use strict";
var $ = function (id) { return document.getElementById(id); };
var all = function (sel, from) { return Array.prototype.slice.call((from || document).querySelectorAll(sel)); };
all(".js").forEach(function (e) { e.hidden = false; });

// Theme: the system's until the button is used.
var root = document.documentElement, theme = $("theme"), dark = matchMedia("(prefers-color-scheme: dark)");
function stored(value) {
  try {
    if (value) localStorage.setItem("mayfly-report-theme", value);
    return localStorage.getItem("mayfly-report-theme");
  } catch (e) { return null; } // a file or a sandbox may have no storage
}
function isDark() { return root.dataset.theme ? root.dataset.theme === "dark" : dark.matches; }
function label() { theme.textContent = isDark() ? "Light" : "Dark"; theme.setAttribute("aria-label", "Switch to the " + (isDark() ? "light" : "dark") + " theme"); }
var kept = stored();
if (kept === "dark" || kept === "light") root.dataset.theme = kept;
theme.addEventListener("click", function () { root.dataset.theme = isDark() ? "light" : "dark"; stored(root.dataset.theme); label(); });
dark.addEventListener("change", label);
label();

// Steps. The lines of a log become elements when somebody looks at them.
var steps = all("details.step").map(function (el) {
  return { el: el, name: el.querySelector("summary .name").textContent, chunks: all("pre.log", el).map(function (pre) {
    return { pre: pre, text: pre.textContent, from: Number(pre.dataset.from), lines: null, shown: "text" };
  }) };
});
function linesOf(chunk) { return chunk.lines || (chunk.lines = chunk.text.split("\n")); }
function seconds(ms) { return ms === undefined || ms === "" ? "" : (Number(ms) / 1000).toFixed(ms < 100000 ? 2 : 1); }
function put(parent, tag, cls, text) {
  var e = document.createElement(tag);
  if (cls) e.className = cls;
  if (text !== undefined) e.textContent = text;
  parent.appendChild(e);
  return e;
}
function marked(parent, text, query) {
  var low = text.toLowerCase(), at = 0, i;
  while (query && low.length === text.length && (i = low.indexOf(query, at)) >= 0) {
    parent.appendChild(document.createTextNode(text.slice(at, i)));
    put(parent, "mark", "", text.slice(i, i + query.length));
    at = i + query.length;
  }
  parent.appendChild(document.createTextNode(text.slice(at) + "\n"));
}
var blockLines = 200;
function render(step, query, budget) {
  step.chunks.forEach(function (c) {
    if (c.shown === "q:" + query) return;
    var t = c.pre.dataset.t.split(" "), all = document.createDocumentFragment(), box, room = 0;
    linesOf(c).forEach(function (text, i) {
      if (query && (budget <= 0 || text.toLowerCase().indexOf(query) < 0)) return;
      budget--;
      if (!room--) { // the browser leaves out the work for blocks that nobody sees
        box = put(all, "span", "block");
        room = blockLines - 1;
      }
      var n = c.from + i, l = put(box, "span", "l");
      l.id = step.el.id + "-L" + n;
      var a = put(l, "a", "", String(n));
      a.href = "#" + l.id;
      put(l, "span", "t", seconds(t[i]));
      marked(l, text, query);
    });
    all.querySelectorAll(".block").forEach(function (b) { b.style.containIntrinsicHeight = "auto " + b.childElementCount * 1.5 + "em"; });
    c.pre.replaceChildren(all);
    c.shown = "q:" + query;
  });
}
var query = "";
steps.forEach(function (s) {
  s.el.addEventListener("toggle", function () { if (s.el.open) render(s, s.matched ? query : "", maxShown); });
});

// Search: what does not match is not shown; at most so many lines of a step.
var maxShown = 500, filter = $("filter"), found = $("found"), wasOpen = null, timer;
function search() {
  var q = filter.value.trim().toLowerCase();
  if (q === query) return;
  if (!query) wasOpen = steps.map(function (s) { return s.el.open; });
  query = q;
  var lines = 0, hits = 0, more = false;
  steps.forEach(function (s, i) {
    var n = 0;
    if (q) s.chunks.forEach(function (c) { linesOf(c).forEach(function (t) { if (t.toLowerCase().indexOf(q) >= 0) n++; }); });
    var named = q && s.name.toLowerCase().indexOf(q) >= 0;
    s.matched = n > 0;
    s.el.hidden = !!q && !n && !named;
    lines += n;
    more = more || n > maxShown;
    if (q && (n || named)) hits++;
    s.el.open = q ? n > 0 : wasOpen[i];
    if (s.el.open) render(s, n ? q : "", maxShown);
  });
  found.textContent = q ? lines + (lines === 1 ? " line, " : " lines, ") + hits + (hits === 1 ? " step" : " steps") + (more ? "; at most " + maxShown + " of a step are shown" : "") : "";
  $("nothing").hidden = !q || hits > 0;
}
filter.addEventListener("input", function () { clearTimeout(timer); timer = setTimeout(search, 80); });
filter.addEventListener("keydown", function (e) { if (e.key === "Escape") { filter.value = ""; search(); } });
document.addEventListener("keydown", function (e) {
  if (e.key === "/" && !e.ctrlKey && !e.metaKey && !/^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName)) { e.preventDefault(); filter.focus(); }
});

$("jump").addEventListener("change", function () { if (this.value) location.hash = "#" + this.value; this.value = ""; });
$("expand").addEventListener("click", function () {
  var open = this.textContent === "Expand all";
  steps.forEach(function (s) { if (!s.el.hidden) s.el.open = open; });
  this.textContent = open ? "Collapse all" : "Expand all";
});

// The timeline: all steps, those of one state, or of many those that took long.
var manySteps = 60, chips = all(".chips button"), rows = all(".gantt tbody tr");
function show(what) {
  chips.forEach(function (b) { b.setAttribute("aria-pressed", String(b.dataset.show === what)); });
  rows.forEach(function (tr) { tr.hidden = !(what === "all" || what === "long" && "long" in tr.dataset || tr.dataset.state === what); });
}
chips.forEach(function (b) { b.addEventListener("click", function () { show(b.dataset.show); }); });
show(rows.length > manySteps && chips.some(function (b) { return b.dataset.show === "long"; }) ? "long" : "all");

// Links to a step, or to a line of its log: #step-7, #step-7-L12.
function follow() {
  all(".at").forEach(function (e) { e.classList.remove("at"); });
  var m = /^#(step-\d+)(-L\d+)?$/.exec(location.hash), s = m && steps.filter(function (s) { return s.el.id === m[1]; })[0];
  if (!s) return;
  var line = m[2] && $(m[1] + m[2]);
  if (s.el.hidden || m[2] && !line && query) { filter.value = ""; search(); }
  s.el.open = true;
  render(s, s.matched && query ? query : "", maxShown);
  line = m[2] && $(m[1] + m[2]);
  (line || s.el).classList.add("at");
  (line || s.el).scrollIntoView({ block: line ? "center" : "start" });
}
addEventListener("hashchange", follow);
document.addEventListener("click", function (e) { // the same link once more
  var a = e.target.closest && e.target.closest("a[href^='#step-']");
  if (a && a.getAttribute("href") === location.hash) follow();
});
follow();
})();
