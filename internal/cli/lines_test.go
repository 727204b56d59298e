package cli

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/peltonq/pelton"
)

func readChunks(t *testing.T, r *lineReader) [][]taskLine {
	t.Helper()
	var chunks [][]taskLine
	for {
		chunk, err := r.chunk()
		if errors.Is(err, io.EOF) {
			return chunks
		}
		if err != nil {
			t.Fatal(err)
		}
		chunks = append(chunks, chunk)
	}
}

func TestChunksAreBounded(t *testing.T) {
	t.Parallel()
	small := strings.Repeat(`{"kind":"k"}`+"\n", 2500)
	large := strings.Repeat(`{"kind":"k","payload":"`+strings.Repeat("x", 200<<10)+`"}`+"\n", 100)
	for name, input := range map[string]string{"small": small, "large": large} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			total, most := 0, 0
			for _, chunk := range readChunks(t, newLineReader(strings.NewReader(input), nil)) {
				size := 0
				for _, line := range chunk {
					size += len(line.body) + 1
				}
				if len(chunk) > pelton.MaxBatch || size > maxChunk {
					t.Errorf("a chunk of %d lines, %d bytes", len(chunk), size)
				}
				total, most = total+len(chunk), max(most, len(chunk))
			}
			if want := strings.Count(input, "\n"); total != want {
				t.Errorf("%d lines, want %d", total, want)
			}
			if name == "small" && most != pelton.MaxBatch {
				t.Errorf("the largest chunk has %d lines: batches are not filled", most)
			}
		})
	}
}

// Lines that are there are not held back for those that are not.
func TestChunkDoesNotWait(t *testing.T) {
	t.Parallel()
	in, out := io.Pipe()
	defer in.Close()
	r := newLineReader(in, nil)
	for range 2 {
		wrote := make(chan error, 1)
		go func() {
			_, err := io.WriteString(out, `{"kind":"a"}`+"\n"+`{"kind":"b"}`+"\n"+`{"kind"`)
			if err == nil {
				_, err = io.WriteString(out, `:"c"}`+"\n")
			}
			wrote <- err
		}()
		n := 0
		for n < 3 {
			chunk, err := r.chunk()
			if err != nil {
				t.Fatal(err)
			}
			n += len(chunk)
		}
		if err := <-wrote; err != nil {
			t.Fatal(err)
		}
	}
}

func TestBadLines(t *testing.T) {
	t.Parallel()
	input := strings.Join([]string{
		"\xef\xbb\xbf" + `{"kind":"a"}` + "\r",
		"",
		`{"kind":`,
		`null`,
		`"text"`,
		`{}`,
		`{"kind":"` + strings.Repeat("x", maxLine) + `"}`,
		`{"kind":"last"}`,
	}, "\n")
	got := map[int]string{}
	for _, chunk := range readChunks(t, newLineReader(strings.NewReader(input), nil)) {
		for _, line := range chunk {
			got[line.number] = string(line.body)
			if line.err != nil {
				got[line.number] = line.err.Error()
			}
		}
	}
	want := map[int]string{
		1: `{"kind":"a"}`,
		3: "is not JSON: unexpected end of JSON input (at byte 8)",
		4: `is not a task: it must be an object such as {"kind":"demo.echo","payload":1}`,
		5: `is not a task: it must be an object such as {"kind":"demo.echo","payload":1}`,
		6: `has no "kind"`,
		7: fmt.Sprintf("is longer than %d bytes", maxLine),
		8: `{"kind":"last"}`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestInputError(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	r := newLineReader(io.MultiReader(strings.NewReader(`{"kind":"a"}`+"\n"), iotest.ErrReader(boom)), nil)
	chunk, err := r.chunk()
	if err == nil {
		if len(chunk) != 1 {
			t.Fatalf("%d lines", len(chunk))
		}
		_, err = r.chunk()
	}
	if !errors.Is(err, boom) {
		t.Errorf("error %v", err)
	}
}

func TestLineDefaults(t *testing.T) {
	t.Parallel()
	defaults := []field{{"kind", "k"}, {"queue", "q"}, {"delay", "1h"}}
	for _, tc := range []struct{ line, want string }{
		{`{}`, `{"kind":"k","queue":"q","delay":"1h"}`},
		{`{ "payload" : {"a": 1.0} }`, `{"kind":"k","queue":"q","delay":"1h", "payload" : {"a": 1.0} }`},
		{`{"kind":"x","queue":"y","delay":"0s"}`, `{"kind":"x","queue":"y","delay":"0s"}`},
		{`{"run_at":"2030-01-01T00:00:00Z"}`, `{"kind":"k","queue":"q","run_at":"2030-01-01T00:00:00Z"}`},
	} {
		got, _, err := withDefaults([]byte(tc.line), defaults)
		if err != nil || string(got) != tc.want {
			t.Errorf("%s: %s, %v; want %s", tc.line, got, err, tc.want)
		}
	}
}

// Whatever the input and however it arrives, each line that is not blank comes
// out once, in order, and never more than a chunk at a time.
func TestEveryLineOnce(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		texts := rapid.SliceOfN(rapid.SampledFrom([]string{`{"kind":"a"}`, ` {"kind":"b","payload":[1, 2]}`, "", "  ", "x", "[]"}), 0, 50).Draw(t, "lines")
		input := strings.Join(texts, "\n")
		var in io.Reader = strings.NewReader(input)
		if rapid.Bool().Draw(t, "slow") {
			in = iotest.OneByteReader(in)
		}
		var want, got []int
		for i, text := range texts {
			if strings.TrimSpace(text) != "" {
				want = append(want, i+1)
			}
		}
		r := newLineReader(in, nil)
		for {
			chunk, err := r.chunk()
			for _, line := range chunk {
				if (line.err == nil) != strings.Contains(texts[line.number-1], "kind") {
					t.Fatalf("line %d %q: error %v", line.number, texts[line.number-1], line.err)
				}
				got = append(got, line.number)
			}
			if err != nil {
				break
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
	})
}
