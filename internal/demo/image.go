package demo

import (
	"context"
	"errors"
	"fmt"
	"image"
	"image/gif"
	"image/jpeg"
	"image/png"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/peltonq/pelton"
	"golang.org/x/image/draw"
)

const (
	maxThumbWidth  = 8192
	maxThumbHeight = 1<<16 - 1 // the most a JPEG or GIF can say
	maxImageBytes  = 64 << 20  // of the source file
	maxPixels      = 100_000_000
	// maxScratch bounds width × source height: the scaler keeps 32 bytes for
	// each of these, so this is 1 GiB.
	maxScratch  = 1 << 25
	jpegQuality = 85
)

type imageArgs struct {
	Path  string `json:"path"`
	Width int    `json:"width"`
}

type imageResult struct {
	Path   string `json:"path"` // of the thumbnail
	Width  int    `json:"width"`
	Height int    `json:"height"`
	Bytes  int64  `json:"bytes"`
}

// thumbnail scales a PNG, JPEG or GIF (its first frame) to a width, keeps the
// aspect ratio and the format, and puts the outcome beside the file:
// photo.png becomes photo-w200.png, which is replaced if it exists. A file that
// is not such an image or exceeds the bounds is discarded; one that is not
// there, or cannot be read or written, is an ordinary error.
func thumbnail(ctx context.Context, args imageArgs) (imageResult, error) {
	if args.Width < 1 || args.Width > maxThumbWidth {
		return imageResult{}, invalidImage(args.Path, fmt.Errorf("width %d is not between 1 and %d", args.Width, maxThumbWidth))
	}
	src, format, err := loadImage(ctx, args)
	if err != nil {
		return imageResult{}, err
	}
	dst := image.NewRGBA(image.Rect(0, 0, args.Width, thumbHeight(src.Bounds().Dx(), src.Bounds().Dy(), args.Width)))
	draw.CatmullRom.Scale(dst, dst.Bounds(), src, src.Bounds(), draw.Src, nil)
	if err := interrupted(ctx, args.Path); err != nil {
		return imageResult{}, err
	}
	return saveImage(ctx, thumbPath(args.Path, args.Width), dst, encoder(format, src))
}

// loadImage reads and decodes the source, after checking what it claims to be.
func loadImage(ctx context.Context, args imageArgs) (src image.Image, format string, err error) {
	// Opening a pipe would wait for its writer, so look before.
	info, err := os.Stat(args.Path)
	if err != nil {
		return nil, "", fmt.Errorf("demo.image: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, "", invalidImage(args.Path, errors.New("not a regular file"))
	}
	if info.Size() > maxImageBytes {
		return nil, "", invalidImage(args.Path, fmt.Errorf("%d bytes are more than %d", info.Size(), maxImageBytes))
	}
	f, err := os.Open(args.Path)
	if err != nil {
		return nil, "", fmt.Errorf("demo.image: %w", err)
	}
	defer f.Close()

	config, format, err := image.DecodeConfig(io.LimitReader(f, maxImageBytes))
	if err != nil {
		return nil, "", decodeError(args.Path, err)
	}
	if encoder(format, nil) == nil {
		return nil, "", invalidImage(args.Path, fmt.Errorf("%s is none of PNG, JPEG and GIF", format))
	}
	if err := checkSize(config.Width, config.Height, args.Width); err != nil {
		return nil, "", invalidImage(args.Path, err)
	}
	if err := interrupted(ctx, args.Path); err != nil {
		return nil, "", err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, "", fmt.Errorf("demo.image: %w", err)
	}
	if src, _, err = image.Decode(io.LimitReader(f, maxImageBytes)); err != nil {
		return nil, "", decodeError(args.Path, err)
	}
	// A GIF's frame may be of another shape than the picture that was checked.
	if err := checkSize(src.Bounds().Dx(), src.Bounds().Dy(), args.Width); err != nil {
		return nil, "", invalidImage(args.Path, err)
	}
	return src, format, interrupted(ctx, args.Path)
}

// checkSize refuses what would take too much memory, or has no pixels.
func checkSize(srcWidth, srcHeight, width int) error {
	if srcWidth < 1 || srcHeight < 1 {
		return fmt.Errorf("%d×%d pixels are no picture", srcWidth, srcHeight)
	}
	if srcWidth > maxPixels/srcHeight {
		return fmt.Errorf("%d×%d pixels are more than %d", srcWidth, srcHeight, maxPixels)
	}
	if height := thumbHeight(srcWidth, srcHeight, width); height > maxThumbHeight || width > maxPixels/height {
		return fmt.Errorf("a thumbnail of %d×%d pixels is too large", width, height)
	}
	if width > maxScratch/srcHeight {
		return fmt.Errorf("a height of %d pixels takes too much memory to scale to a width of %d", srcHeight, width)
	}
	return nil
}

// thumbHeight keeps the aspect ratio; a picture has at least one line.
func thumbHeight(srcWidth, srcHeight, width int) int {
	return max(1, int(math.Round(float64(srcHeight)*float64(width)/float64(srcWidth))))
}

// thumbPath is where the thumbnail of path goes.
func thumbPath(path string, width int) string {
	ext := filepath.Ext(path)
	return strings.TrimSuffix(path, ext) + "-w" + strconv.Itoa(width) + ext
}

// encoder writes the format of the source; nil for a format that is not served.
func encoder(format string, src image.Image) func(w io.Writer, img *image.RGBA) error {
	switch format {
	case "png":
		return func(w io.Writer, img *image.RGBA) error { return png.Encode(w, img) }
	case "jpeg":
		return func(w io.Writer, img *image.RGBA) error {
			return jpeg.Encode(w, img, &jpeg.Options{Quality: jpegQuality})
		}
	case "gif":
		return func(w io.Writer, img *image.RGBA) error {
			// The source's own palette keeps its colours and its transparency.
			frame, ok := src.(*image.Paletted)
			if !ok {
				return gif.Encode(w, img, nil)
			}
			out := image.NewPaletted(img.Bounds(), frame.Palette)
			draw.FloydSteinberg.Draw(out, out.Bounds(), img, img.Bounds().Min)
			return gif.Encode(w, out, nil)
		}
	default:
		return nil
	}
}

// saveImage writes to a file of another name and renames it, so that nobody
// sees half a picture.
func saveImage(ctx context.Context, path string, img *image.RGBA, encode func(io.Writer, *image.RGBA) error) (_ imageResult, err error) {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".pelton-thumbnail-*")
	if err != nil {
		return imageResult{}, fmt.Errorf("demo.image: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(tmp.Name()))
		}
	}()
	if err := errors.Join(encode(tmp, img), tmp.Chmod(0o644), tmp.Sync()); err != nil {
		return imageResult{}, errors.Join(fmt.Errorf("demo.image: write %s: %w", path, err), tmp.Close())
	}
	info, err := tmp.Stat()
	if err = errors.Join(err, tmp.Close()); err != nil {
		return imageResult{}, fmt.Errorf("demo.image: write %s: %w", path, err)
	}
	if err := interrupted(ctx, path); err != nil {
		return imageResult{}, err
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return imageResult{}, fmt.Errorf("demo.image: %w", err)
	}
	return imageResult{Path: path, Width: img.Bounds().Dx(), Height: img.Bounds().Dy(), Bytes: info.Size()}, nil
}

// interrupted is the cause of ctx, once it has ended.
func interrupted(ctx context.Context, path string) error {
	if ctx.Err() == nil {
		return nil
	}
	return fmt.Errorf("demo.image %s: %w", path, context.Cause(ctx))
}

// decodeError tells a file that cannot be read from one that is no image.
func decodeError(path string, err error) error {
	if pathErr := new(fs.PathError); errors.As(err, &pathErr) {
		return fmt.Errorf("demo.image: %w", err)
	}
	return invalidImage(path, err)
}

func invalidImage(path string, err error) error {
	return pelton.Discard(fmt.Errorf("demo.image %s: %w", path, err))
}
