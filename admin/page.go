package admin

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"

	"github.com/peltonq/pelton"
)

const (
	pageItems    = 50 // items of a page, when the query does not say
	maxPageItems = 500
)

// readPage gives the name after which a page starts and its most items, or what is
// wrong with the query.
func readPage(cursor string, limit int) (after string, most int, bad []pelton.FieldError) {
	if most = limit; most == 0 {
		most = pageItems
	}
	if most < 1 || most > maxPageItems {
		bad = append(bad, pelton.FieldError{Field: "limit", Message: fmt.Sprintf("%d is not between 1 and %d", most, maxPageItems)})
	}
	decoded, err := base64.RawURLEncoding.DecodeString(cursor)
	if err != nil {
		bad = append(bad, pelton.FieldError{Field: "cursor", Message: "is not one of an answer"})
	}
	return string(decoded), most, bad
}

// cutPage gives the page of all, which are sorted by name, and the cursor of the
// next one.
func cutPage[T any](all []T, after string, most int, name func(T) string) (page []T, next string) {
	start, found := slices.BinarySearchFunc(all, after, func(item T, after string) int { return strings.Compare(name(item), after) })
	if found {
		start++
	}
	if page = all[start:]; len(page) > most {
		page = page[:most]
		next = base64.RawURLEncoding.EncodeToString([]byte(name(page[most-1])))
	}
	return page, next
}
