package demo

import (
	"bytes"
	"context"
	"errors"
	"image"
	"image/color"
	"image/gif"
	"image/png"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/peltonq/pelton"
)

// testdata copies real pictures of Go's own source tree into a fresh folder.
func testdata(t *testing.T, names ...string) (folder string) {
	t.Helper()
	root, err := exec.CommandContext(t.Context(), "go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatalf("go env GOROOT: %v", err)
	}
	folder = t.TempDir()
	for _, name := range names {
		data, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(root)), "src", "image", "testdata", name))
		if errors.Is(err, fs.ErrNotExist) {
			t.Skipf("SKIPPED: this Go has no sources with pictures: %v", err)
		}
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(folder, name), data)
	}
	return folder
}

func writeFile(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestThumbnail(t *testing.T) {
	t.Parallel()
	// All of these are 150×103.
	for name, format := range map[string]string{
		"video-001.png": "png", "video-001.interlaced.gif": "gif", "video-001.gif": "gif", "video-001.jpeg": "jpeg",
		"video-001.progressive.jpeg": "jpeg", "video-001.cmyk.jpeg": "jpeg", "video-005.gray.png": "png", "video-005.gray.gif": "gif",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			folder := testdata(t, name)
			ext := filepath.Ext(name)
			for width, height := range map[int]int{1: 1, 60: 41, 300: 206} {
				got, err := thumbnail(t.Context(), imageArgs{Path: filepath.Join(folder, name), Width: width})
				if err != nil {
					t.Fatal(err)
				}
				data, err := os.ReadFile(thumbPath(filepath.Join(folder, name), width))
				if err != nil {
					t.Fatal(err)
				}
				want := imageResult{Path: filepath.Join(folder, strings.TrimSuffix(name, ext)+"-w"+strconv.Itoa(width)+ext), Width: width, Height: height, Bytes: int64(len(data))}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
				thumb, gotFormat, err := image.Decode(bytes.NewReader(data))
				if err != nil {
					t.Fatal(err)
				}
				if size := thumb.Bounds().Size(); gotFormat != format || size != image.Pt(width, height) {
					t.Errorf("a %s of %s, want %s of %d×%d", gotFormat, size, format, width, height)
				}
				requireAlike(t, filepath.Join(folder, name), thumb)
			}
			requireFiles(t, folder, 4)
		})
	}
}

// requireAlike compares the mean colours of the two pictures.
func requireAlike(t *testing.T, path string, thumb image.Image) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	src, _, err := image.Decode(f)
	if err != nil {
		t.Fatal(err)
	}
	if thumb.Bounds().Dx() == 1 { // one pixel of a palette need not be the mean
		return
	}
	a, b := meanColour(src), meanColour(thumb)
	for i := range a {
		if diff := a[i] - b[i]; diff < -6 || diff > 6 {
			t.Errorf("mean colour %.0f, the source's is %.0f", b, a)
			return
		}
	}
}

func meanColour(img image.Image) (mean [3]float64) {
	bounds := img.Bounds()
	for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
		for x := bounds.Min.X; x < bounds.Max.X; x++ {
			r, g, b, _ := img.At(x, y).RGBA()
			for i, v := range []uint32{r, g, b} {
				mean[i] += float64(v>>8) / float64(bounds.Dx()*bounds.Dy())
			}
		}
	}
	return mean
}

func requireFiles(t *testing.T, folder string, want int) {
	t.Helper()
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != want {
		t.Errorf("%d files, want %d: %v", len(entries), want, entries)
	}
}

// TestThumbnailKeepsTransparency of a GIF whose frame is smaller than its canvas.
func TestThumbnailKeepsTransparency(t *testing.T) {
	t.Parallel()
	frame := image.NewPaletted(image.Rect(10, 20, 50, 40), color.Palette{color.Transparent, color.RGBA{R: 200, A: 255}})
	for x := 30; x < 50; x++ { // the right half is red
		for y := 20; y < 40; y++ {
			frame.SetColorIndex(x, y, 1)
		}
	}
	var data bytes.Buffer
	if err := gif.EncodeAll(&data, &gif.GIF{Image: []*image.Paletted{frame}, Delay: []int{0}, Config: image.Config{Width: 100, Height: 100, ColorModel: frame.Palette}}); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "clear.GIF")
	writeFile(t, path, data.Bytes())
	got, err := thumbnail(t.Context(), imageArgs{Path: path, Width: 20})
	if err != nil {
		t.Fatal(err)
	}
	if got.Width != 20 || got.Height != 10 || !strings.HasSuffix(got.Path, "clear-w20.GIF") {
		t.Errorf("%+v", got)
	}
	thumb := decodeFile(t, got.Path)
	if _, _, _, alpha := thumb.At(2, 5).RGBA(); alpha != 0 {
		t.Errorf("the left half has alpha %d", alpha)
	}
	if r, _, _, alpha := thumb.At(17, 5).RGBA(); r>>8 != 200 || alpha != 0xffff {
		t.Errorf("the right half is %v", thumb.At(17, 5))
	}
}

func decodeFile(t *testing.T, path string) image.Image {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	img, _, err := image.Decode(f)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func TestThumbnailDiscards(t *testing.T) {
	t.Parallel()
	folder := testdata(t, "video-001.png")
	good := filepath.Join(folder, "video-001.png")
	whole, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"text.png": []byte("no picture"), "empty.gif": nil, "wide.png": pngHeader(1<<20, 1<<20), "tall.png": tallPNG(t), "half.png": whole[:len(whole)/2],
	} {
		writeFile(t, filepath.Join(folder, name), data)
	}
	huge := filepath.Join(folder, "huge.png")
	writeFile(t, huge, nil)
	if err := os.Truncate(huge, maxImageBytes+1); err != nil {
		t.Fatal(err)
	}
	for _, args := range []imageArgs{
		{good, 0},
		{good, -1},
		{good, maxThumbWidth + 1},
		{folder, 10},
		{os.DevNull, 10},
		{huge, 10},
		{filepath.Join(folder, "text.png"), 10},
		{filepath.Join(folder, "empty.gif"), 10},
		{filepath.Join(folder, "wide.png"), 10},
		{filepath.Join(folder, "tall.png"), 8000},
		{filepath.Join(folder, "half.png"), 10},
	} {
		_, err := thumbnail(t.Context(), args)
		if err == nil {
			t.Errorf("%s to %d: accepted", args.Path, args.Width)
			continue
		}
		requireDiscard(t, err)
	}
	requireFiles(t, folder, 7)
}

// pngHeader claims a size and has no pixels.
func pngHeader(width, height uint32) []byte {
	var data bytes.Buffer
	_ = png.Encode(&data, image.NewGray(image.Rect(0, 0, 1, 1)))
	out := data.Bytes()[:33]
	for i := range 4 {
		out[16+i], out[20+i] = byte(width>>(24-8*i)), byte(height>>(24-8*i))
	}
	return out
}

// tallPNG is a line whose thumbnail would be 80 million pixels high.
func tallPNG(t *testing.T) []byte {
	t.Helper()
	var data bytes.Buffer
	if err := png.Encode(&data, image.NewGray(image.Rect(0, 0, 1, 10_000))); err != nil {
		t.Fatal(err)
	}
	return data.Bytes()
}

func TestCheckSize(t *testing.T) {
	t.Parallel()
	for _, size := range [][3]int{{10_000, 10_000, 3000}, {1, 1, 1}, {1, 1, 8192}, {4000, 3000, 8192}, {100_000_000, 1, 10}, {10, 60_000, 10}} {
		if err := checkSize(size[0], size[1], size[2]); err != nil {
			t.Errorf("%v: %v", size, err)
		}
	}
	for _, size := range [][3]int{{0, 5, 5}, {10_001, 10_000, 10}, {1 << 40, 1 << 40, 1}, {1, 100_000_000, 1}, {10_000, 10_000, 8000}, {10, 100, 8192}} {
		if err := checkSize(size[0], size[1], size[2]); err == nil {
			t.Errorf("%v: accepted", size)
		}
	}
}

func TestThumbnailRetries(t *testing.T) {
	t.Parallel()
	folder := testdata(t, "video-001.png")
	_, err := thumbnail(t.Context(), imageArgs{Path: filepath.Join(folder, "later.png"), Width: 10})
	requireRetry(t, err)
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}

	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(pelton.ErrShutdown)
	_, err = thumbnail(ctx, imageArgs{Path: filepath.Join(folder, "video-001.png"), Width: 10})
	if !errors.Is(err, pelton.ErrShutdown) {
		t.Errorf("%v", err)
	}
	_, err = saveImage(ctx, filepath.Join(folder, "x.png"), image.NewRGBA(image.Rect(0, 0, 1, 1)), encoder("png", nil))
	if !errors.Is(err, pelton.ErrShutdown) {
		t.Errorf("%v", err)
	}
	requireFiles(t, folder, 1)
}

func TestThumbnailReplaces(t *testing.T) {
	t.Parallel()
	folder := testdata(t, "video-001.jpeg")
	args := imageArgs{Path: filepath.Join(folder, "video-001.jpeg"), Width: 20}
	old := filepath.Join(folder, "video-001-w20.jpeg")
	writeFile(t, old, []byte("old"))
	got, err := thumbnail(t.Context(), args)
	if err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(old); err != nil || int64(len(data)) != got.Bytes || slices.Equal(data, []byte("old")) {
		t.Errorf("%d bytes, %v", len(data), err)
	}
	requireFiles(t, folder, 2)
}
