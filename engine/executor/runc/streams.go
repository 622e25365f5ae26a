package runc

import (
	"io"
	"os"
	"sync"

	"github.com/mayfly-build/mayfly/engine/executor"
)

// streams join the standard streams of a process with the caller's readers and
// writers. The fields are the process's ends.
type streams struct {
	stdin, stdout, stderr *os.File

	in     *os.File // our end of stdin; nil when it is empty
	source io.Reader
	outs   []*output
	done   sync.WaitGroup
}

// An output is a pipe whose contents go to w.
type output struct {
	r   *os.File
	w   io.Writer
	err error
}

func openStreams(p executor.Process) (_ *streams, retErr error) {
	s := &streams{source: p.Stdin}
	defer func() {
		if retErr != nil {
			s.abort()
		}
	}()
	var err error
	if p.Stdin == nil {
		s.stdin, err = os.Open(os.DevNull)
	} else {
		s.stdin, s.in, err = os.Pipe()
	}
	if err != nil {
		return nil, err
	}
	if s.stdout, err = s.pipe(p.Stdout); err != nil {
		return nil, err
	}
	if p.Stdout != nil && sameWriter(p.Stdout, p.Stderr) {
		s.stderr = s.stdout
		return s, nil
	}
	s.stderr, err = s.pipe(p.Stderr)
	return s, err
}

// sameWriter compares without panic: a writer's type may not be comparable.
func sameWriter(a, b io.Writer) (same bool) {
	defer func() { _ = recover() }()
	return a == b
}

// pipe opens the process's end of an output that goes to w.
func (s *streams) pipe(w io.Writer) (*os.File, error) {
	if w == nil {
		return os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	}
	pr, pw, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	s.outs = append(s.outs, &output{r: pr, w: w})
	return pw, nil
}

// started closes the process's ends in this process and starts to copy.
func (s *streams) started() {
	s.closeProcessEnds()
	for _, o := range s.outs {
		s.done.Go(o.copy)
	}
	if s.in != nil {
		// Not waited for: the source may block for ever, as a terminal does.
		go func() {
			_, _ = io.Copy(s.in, s.source)
			_ = s.in.Close()
		}()
	}
}

// copy passes everything on. When the writer fails the rest is read and
// dropped, so that the process does not see a broken pipe for it.
func (o *output) copy() {
	if _, o.err = io.Copy(o.w, o.r); o.err != nil {
		_, _ = io.Copy(io.Discard, o.r)
	}
	_ = o.r.Close()
}

// wait returns when all output is written, with the first error of a writer.
// The process must have ended.
func (s *streams) wait() error {
	s.done.Wait()
	if s.in != nil {
		_ = s.in.Close()
	}
	for _, o := range s.outs {
		if o.err != nil {
			return o.err
		}
	}
	return nil
}

// abort closes everything; the process was not started.
func (s *streams) abort() {
	s.closeProcessEnds()
	if s.in != nil {
		_ = s.in.Close()
	}
	for _, o := range s.outs {
		_ = o.r.Close()
	}
}

func (s *streams) closeProcessEnds() {
	closeAll([]*os.File{s.stdin, s.stdout, s.stderr})
}

func closeAll(files []*os.File) {
	for _, f := range files {
		if f != nil {
			_ = f.Close()
		}
	}
}
