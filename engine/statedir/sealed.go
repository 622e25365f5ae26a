package statedir

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
)

// ErrCorrupt says that a file of the state dir is not what was written.
var ErrCorrupt = errors.New("the file is damaged")

// Seal returns v as JSON behind its checksum: a file that is read back is
// right or no file at all.
func Seal(v any) ([]byte, error) {
	dt, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(dt)
	return append(append(hex.AppendEncode(nil, sum[:]), '\n'), dt...), nil
}

// ReadSealed reads into v what Seal made. The error is ErrCorrupt when the
// file is anything else.
func ReadSealed(path string, v any) error {
	all, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	line, dt, ok := bytes.Cut(all, []byte("\n"))
	sum := sha256.Sum256(dt)
	if !ok || string(line) != hex.EncodeToString(sum[:]) || json.Unmarshal(dt, v) != nil {
		return ErrCorrupt
	}
	return nil
}
