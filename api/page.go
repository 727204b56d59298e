package api

import (
	"encoding/base64"
	"maps"
	"net/url"
	"slices"
	"strings"
)

// emptyParams are the parameters that have no value, which would be taken for absent: an
// empty queue, of a script whose variable was not set, must not mean all queues. The
// first page has no cursor, and a label may be empty.
func emptyParams(query url.Values) (bad []fieldError) {
	for _, name := range slices.Sorted(maps.Keys(query)) {
		if slices.Contains(query[name], "") && name != "cursor" && !strings.HasPrefix(name, labelPrefix) && len(bad) < maxFieldErrors {
			bad = append(bad, fieldError{"query." + clip(name, 100), "must not be empty: leave it out instead"})
		}
	}
	return bad
}

// namesInput is the query of a list that is sorted by name.
type namesInput struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"500" default:"50" doc:"The most items of the page."`
	Cursor string `query:"cursor" doc:"The next_cursor of the page before."`
}

// namesPage is a page of a list that is sorted by name.
type namesPage[T any] struct {
	Items      []T    `json:"items"` // never nil: [] and not null
	NextCursor string `json:"next_cursor,omitempty"`
}

// cutPage is the page of all items, which are sorted by name. Its cursor is the last
// name of the page before, so that a page begins where that was, whatever came or went
// meanwhile. The error is a problem.
func cutPage[T any](all []T, in *namesInput, name func(T) string) (*namesPage[T], error) {
	after, err := base64.RawURLEncoding.DecodeString(in.Cursor)
	if err != nil {
		return nil, fieldProblem(kindInvalid, fieldError{"query.cursor", "is not one of an answer"})
	}
	start, found := slices.BinarySearchFunc(all, string(after), func(item T, after string) int { return strings.Compare(name(item), after) })
	if found {
		start++
	}
	page := &namesPage[T]{Items: append([]T{}, all[start:min(start+in.Limit, len(all))]...)}
	if n := len(page.Items); n > 0 && start+n < len(all) {
		page.NextCursor = base64.RawURLEncoding.EncodeToString([]byte(name(page.Items[n-1])))
	}
	return page, nil
}
