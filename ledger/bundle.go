package ledger

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// A bundle is a whole log in one file: a line of JSON (Header), then a line for each leaf in order. That is the entry's
// canonical JSON or, where its body was deleted or is not the reader's to see, a minus sign and the base64 of its hash.
// It is checked without the control plane: Verify needs the log's key, and a checkpoint that came from elsewhere.

// Format of bundles.
const Format = "loopback-audit/1"

// Header is a bundle's first line.
type Header struct {
	Began      int64  `json:"began"`      // position before the first leaf: that of leaf i is Began+1+i
	Checkpoint string `json:"checkpoint"` // signed, over all leaves
	Format     string `json:"format"`
	Key        string `json:"key"`                // that the log says it signs with
	Previous   string `json:"previous,omitempty"` // last checkpoint of the log before this one
	// Checkpoints by which the log's keys gave way to each other, each signed by both.
	Handovers []string `json:"handovers,omitempty"`
}

// maxLine bounds an entry; what acts describe is far smaller.
const maxLine = 64 << 20

// Writer writes a bundle.
type Writer struct{ w *bufio.Writer }

// NewWriter begins a bundle.
func NewWriter(w io.Writer, h Header) (*Writer, error) {
	h.Format = Format
	b, err := encodeHeader(h)
	if err != nil {
		return nil, err
	}
	out := &Writer{bufio.NewWriterSize(w, 1<<18)}
	_, err = out.w.Write(append(b, '\n'))
	return out, err
}

func encodeHeader(h Header) ([]byte, error) {
	b, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	return b, nil
}

// Add writes a leaf.
func (w *Writer) Add(leaf []byte) error {
	if len(leaf) == 0 || leaf[0] != '{' || bytes.IndexByte(leaf, '\n') >= 0 {
		return errors.New("ledger: a leaf is not one line of JSON")
	}
	if _, err := w.w.Write(leaf); err != nil {
		return err
	}
	return w.w.WriteByte('\n')
}

// AddHash writes a leaf of which only the hash is there.
func (w *Writer) AddHash(h Hash) error {
	_, err := w.w.WriteString("-" + base64.StdEncoding.EncodeToString(h[:]) + "\n")
	return err
}

// Close writes what is left; the file is the caller's to close.
func (w *Writer) Close() error { return w.w.Flush() }

// errCut says that a file ends within a line.
var errCut = errors.New("it ends within a line")

// Reader reads a bundle.
type Reader struct {
	Header Header
	r      *bufio.Reader
	long   []byte
	lines  int64 // leaves read
}

// NewReader reads the header.
func NewReader(r io.Reader) (*Reader, error) {
	out := &Reader{r: bufio.NewReaderSize(r, 1<<18)}
	line, err := out.line()
	if err != nil {
		return nil, fmt.Errorf("ledger: it is no bundle of an audit log: %w", cut(err))
	}
	if err := json.Unmarshal(line, &out.Header); err != nil || out.Header.Format == "" {
		return nil, errors.New("ledger: it is no bundle of an audit log: its first line is no header")
	}
	if out.Header.Format != Format {
		return nil, fmt.Errorf("ledger: the bundle has format %.40q; this program knows %s", out.Header.Format, Format)
	}
	// One spelling: what is not covered by the signature cannot be changed unseen either.
	if again, err := encodeHeader(out.Header); err != nil || !bytes.Equal(again, line) || out.Header.Began < 0 {
		return nil, errors.New("ledger: the header is not as loopback writes it")
	}
	return out, nil
}

func cut(err error) error {
	if err == io.EOF {
		return errCut
	}
	return err
}

// line is the next one without its end. It holds until the next call.
func (r *Reader) line() ([]byte, error) {
	b, err := r.r.ReadSlice('\n')
	if err == nil {
		return b[:len(b)-1], nil
	}
	r.long = append(r.long[:0], b...)
	for errors.Is(err, bufio.ErrBufferFull) {
		if len(r.long) > maxLine {
			return nil, errors.New("a line is longer than an entry can be")
		}
		b, err = r.r.ReadSlice('\n')
		r.long = append(r.long, b...)
	}
	switch {
	case err == io.EOF && len(r.long) == 0:
		return nil, io.EOF
	case err == io.EOF:
		return nil, errCut
	case err != nil:
		return nil, err
	}
	return r.long[:len(r.long)-1], nil
}

// Next is the next leaf: its body, or its hash alone. io.EOF after the last. A body holds until the next call.
func (r *Reader) Next() (leaf []byte, hash Hash, err error) {
	line, err := r.line()
	if err != nil {
		return nil, Hash{}, err
	}
	r.lines++
	if len(line) > 0 && line[0] == '-' {
		b, err := strict.AppendDecode(nil, line[1:])
		if err != nil || len(b) != hashSize {
			return nil, Hash{}, &Finding{Kind: Altered, Leaf: r.lines - 1, Message: "its line is no hash"}
		}
		return nil, Hash(b), nil
	}
	if len(line) == 0 || line[0] != '{' {
		return nil, Hash{}, &Finding{Kind: Altered, Leaf: r.lines - 1, Message: "its line is neither an entry nor a hash"}
	}
	return line, Hash{}, nil
}
