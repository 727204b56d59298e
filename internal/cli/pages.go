package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
)

// eachItem gives every item of a list of the API, page by page to its end. query
// may be nil.
func (c *client) eachItem(ctx context.Context, list string, query url.Values, each func(raw json.RawMessage) error) error {
	query = maps.Clone(query)
	for cursor := ""; ; {
		body, err := c.do(ctx, request{method: http.MethodGet, path: []string{list}, query: query})
		if err != nil {
			return err
		}
		var page taskPage
		if err := json.Unmarshal(body, &page); err != nil {
			return fmt.Errorf("the server's answer is not a list of %s: %w", list, err)
		}
		for _, raw := range page.Items {
			if err := each(raw); err != nil {
				return err
			}
		}
		if page.NextCursor == "" || page.NextCursor == cursor {
			return nil
		}
		if cursor = page.NextCursor; query == nil {
			query = url.Values{}
		}
		query.Set("cursor", cursor)
	}
}

// mostItems is for lists that are read to their end: the largest pages.
func mostItems() url.Values { return url.Values{"limit": {"500"}} }
