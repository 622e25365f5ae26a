package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
)

// spdxDocument is the predicate type of SBOMs in SPDX's JSON.
const spdxDocument = "https://spdx.dev/Document"

// withLayers says in the SPDX document of an image which layer each of its
// files is in, as BuildKit does: in the file's comment, unless it has one. What
// is no such document stays as it is.
func withLayers(ctx context.Context, predicate json.RawMessage, img *targetImage) (json.RawMessage, error) {
	var doc, info map[string]json.RawMessage
	var files []map[string]json.RawMessage
	if json.Unmarshal(predicate, &doc) != nil || doc["spdxVersion"] == nil || json.Unmarshal(doc["files"], &files) != nil {
		return predicate, nil
	}
	var creators []string
	if json.Unmarshal(doc["creationInfo"], &info) != nil || json.Unmarshal(info["creators"], &creators) != nil {
		return predicate, nil
	}
	for _, f := range files {
		var name string
		if f["comment"] != nil || json.Unmarshal(f["fileName"], &name) != nil {
			continue
		}
		layer, err := layerOf(ctx, img, strings.TrimPrefix(path.Join("/", name), "/"))
		if err != nil {
			return nil, fmt.Errorf("SBOM: find the layer of %s: %w", name, err)
		}
		if layer != "" {
			f["comment"] = text("layerID: " + layer)
		}
	}
	var err error
	if doc["files"], err = json.Marshal(files); err != nil {
		return nil, err
	}
	if info["creators"], err = json.Marshal(append(creators, "Tool: mayfly")); err != nil {
		return nil, err
	}
	if doc["creationInfo"], err = json.Marshal(info); err != nil {
		return nil, err
	}
	return json.Marshal(doc)
}

// text returns s as JSON.
func text(s string) json.RawMessage {
	dt, err := json.Marshal(s)
	if err != nil {
		return nil
	}
	return dt
}

// layerOf returns the digest of the uppermost layer that has the file; "" when
// none has.
func layerOf(ctx context.Context, img *targetImage, name string) (string, error) {
	for i := len(img.blobs) - 1; i >= 0; i-- {
		diff, err := img.blobs[i].state.Diff(ctx)
		if err != nil {
			return "", err
		}
		switch e, err := diff.Lookup(name); {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return "", err
		case !e.Whiteout:
			return img.Layers[i].Digest.String(), nil
		}
	}
	return "", nil
}
