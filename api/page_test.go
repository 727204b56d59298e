package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"

	"github.com/peltonq/pelton"
)

// Queues and limits are listed page by page, whatever comes or goes in between.
func TestListsByName(t *testing.T) {
	t.Parallel()
	queues, limits := &fakeQueues{}, &fakeLimits{}
	for i := range 120 {
		queues.queues = append(queues.queues, pelton.Queue{Name: fmt.Sprintf("q%03d", i)})
		limits.limits = append(limits.limits, pelton.Limit{Name: fmt.Sprintf("l%03d", i), Kind: "k", MaxRunning: 1})
	}
	h := serve(t, newFakeTasks(), func(c *Config) { c.Queues, c.Limits = queues, limits })
	for _, path := range []string{"/queues", "/limits"} {
		for _, limit := range []int{0, 1, 50, 120, 500} {
			query, seen := "?", 0
			if want := limit; limit > 0 {
				query = fmt.Sprintf("?limit=%d&", want)
			}
			for cursor := ""; ; {
				var page namesPage[struct{ Name string }]
				w := call(t, h, http.MethodGet, path+query+cursor, "")
				if err := json.Unmarshal(w.Body.Bytes(), &page); err != nil || w.Code != 200 {
					t.Fatalf("%s: %d %s", path+query+cursor, w.Code, w.Body)
				}
				for _, item := range page.Items {
					if want := fmt.Sprintf("%c%03d", path[1], seen); item.Name != want {
						t.Fatalf("%s: item %d is %s, want %s", path, seen, item.Name, want)
					}
					seen++
				}
				if most := max(limit, 50*(1-min(limit, 1))); len(page.Items) > most {
					t.Errorf("%s: a page of %d, want at most %d", path, len(page.Items), most)
				}
				if page.NextCursor == "" {
					break
				}
				cursor = "cursor=" + page.NextCursor
			}
			if seen != 120 {
				t.Errorf("%s, limit %d: %d items, want 120", path, limit, seen)
			}
		}
		for query, location := range map[string]string{"limit=0": "query.limit", "limit=501": "query.limit", "cursor=*": "query.cursor"} {
			p := wantProblem(t, call(t, h, http.MethodGet, path+"?"+query, ""), 422, kindInvalid)
			if len(p.Errors) != 1 || p.Errors[0].Location != location {
				t.Errorf("%s?%s: %+v", path, query, p.Errors)
			}
		}
	}
}
