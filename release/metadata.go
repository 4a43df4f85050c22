package release

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// maxDepth of metadata; what TUF defines reaches seven.
const maxDepth = 32

// CheckMetadata refuses files that no publisher of ours writes and that a parser may stumble over before it gets to
// check a signature: more than one JSON value, nesting without end, a null anywhere, a name given twice.
func CheckMetadata(file []byte) error {
	d := json.NewDecoder(bytes.NewReader(file))
	d.UseNumber()
	first, err := d.Token()
	if err != nil {
		return fmt.Errorf("the metadata is not JSON: %w", err)
	}
	if first != json.Delim('{') {
		return errors.New("the metadata is not a JSON object")
	}
	if err := checkObject(d, 1); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("the metadata goes on after its end")
	}
	return nil
}

func checkObject(d *json.Decoder, depth int) error {
	seen := map[string]bool{}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return fmt.Errorf("the metadata is not JSON: %w", err)
		}
		key := name.(string) // a decoder yields nothing else here
		if seen[key] {
			return fmt.Errorf("the metadata says %.40q twice", key)
		}
		seen[key] = true
		if err := checkValue(d, depth); err != nil {
			return err
		}
	}
	_, err := d.Token()
	return err
}

func checkValue(d *json.Decoder, depth int) error {
	token, err := d.Token()
	if err != nil {
		return fmt.Errorf("the metadata is not JSON: %w", err)
	}
	if depth >= maxDepth {
		return errors.New("the metadata is nested too deeply")
	}
	switch token {
	case nil:
		return errors.New("the metadata holds a null")
	case json.Delim('{'):
		return checkObject(d, depth+1)
	case json.Delim('['):
		for d.More() {
			if err := checkValue(d, depth+1); err != nil {
				return err
			}
		}
		_, err := d.Token()
		return err
	}
	return nil
}
