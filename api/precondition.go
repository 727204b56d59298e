package api

import (
	"slices"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

// precondition is what If-Match and If-None-Match demand of a resource whose ETag is
// its revision in quotes.
type precondition struct {
	any       bool     // If-Match: *
	absent    bool     // If-None-Match: *
	match     bool     // If-Match was given
	revisions []uint64 // that If-Match lists; what is none can match nothing
}

func (p precondition) given() bool { return p.match || p.absent }

func (p precondition) matches(revision uint64) bool {
	return p.any || slices.Contains(p.revisions, revision)
}

// readPrecondition reads the two headers. Quotes may be missing, which is how a
// revision is typed, and a tag may be weak, which is what proxies that compress make of
// one: revisions are compared, not bytes. A header that is there and empty, of a
// script whose variable was not set, is refused: it must not mean a change without
// condition.
func readPrecondition(ctx huma.Context) (p precondition, err error) {
	if lines := headerValues(ctx, "If-Match"); len(lines) > 0 {
		p.match = true
		for tag := range strings.SplitSeq(strings.Join(lines, ","), ",") {
			switch tag = strings.TrimSpace(tag); tag {
			case "":
				return p, fieldProblem(kindInvalid, fieldError{"header.If-Match", `is not an ETag such as "41", or *`})
			case "*":
				p.any = true
			default:
				tag = strings.TrimPrefix(tag, "W/")
				if revision, err := strconv.ParseUint(strings.Trim(tag, `"`), 10, 64); err == nil {
					p.revisions = append(p.revisions, revision)
				}
			}
		}
	}
	if lines := headerValues(ctx, "If-None-Match"); len(lines) > 0 {
		if p.absent = strings.TrimSpace(strings.Join(lines, ",")) == "*"; !p.absent {
			return p, fieldProblem(kindInvalid, fieldError{"header.If-None-Match", "must be * for a change"})
		}
		if p.match {
			return p, fieldProblem(kindInvalid, fieldError{"header.If-None-Match", "excludes If-Match"})
		}
	}
	return p, nil
}
