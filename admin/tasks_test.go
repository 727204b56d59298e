package admin_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/admin"
	"github.com/peltonq/pelton/internal/brokertest"
)

// dueTasks lists all, page by page.
func dueTasks(t *testing.T, client *admin.Client, q pelton.TaskQuery) (ids []pelton.ID) {
	t.Helper()
	for range 100 {
		page, err := client.Tasks(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		for _, task := range page.Items {
			if task.State != q.State || !task.RunAt.After(time.Now()) {
				t.Errorf("listed: %+v", task)
			}
			ids = append(ids, task.ID)
		}
		if page.NextCursor == "" {
			return ids
		}
		if q.Limit > 0 && len(page.Items) > q.Limit {
			t.Errorf("a page of %d tasks, want at most %d", len(page.Items), q.Limit)
		}
		q.Cursor = page.NextCursor
	}
	t.Fatal("the list does not end")
	return nil
}

func TestTasks(t *testing.T) {
	t.Parallel()
	client, tasks := open(t, brokertest.Start(t))
	var want []pelton.ID
	for i := range 7 {
		task, err := tasks.Enqueue(t.Context(), pelton.Spec{Kind: "k", Payload: []byte(`{"a": 1.0}`)}, pelton.WithDelay(time.Duration(10-i)*time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, task.ID)
	}
	slices.Reverse(want)
	for _, limit := range []int{0, 1, 3, 7} {
		if diff := cmp.Diff(want, dueTasks(t, client, pelton.TaskQuery{TaskFilter: pelton.TaskFilter{State: pelton.Scheduled}, Limit: limit})); diff != "" {
			t.Errorf("limit %d (-want +got):\n%s", limit, diff)
		}
	}
	page, err := client.Tasks(t.Context(), pelton.TaskQuery{TaskFilter: pelton.TaskFilter{State: pelton.Scheduled}})
	if err != nil || string(page.Items[0].Payload) != `{"a": 1.0}` {
		t.Errorf("page = %+v, %v", page, err)
	}
	if got := dueTasks(t, client, pelton.TaskQuery{TaskFilter: pelton.TaskFilter{State: pelton.Retrying}}); len(got) != 0 {
		t.Errorf("retrying: %s", got)
	}
	for name, q := range map[string]pelton.TaskQuery{
		"limit":   {TaskFilter: pelton.TaskFilter{State: pelton.Scheduled}, Limit: 501},
		"cursor":  {TaskFilter: pelton.TaskFilter{State: pelton.Scheduled}, Cursor: "x"},
		"queue":   {TaskFilter: pelton.TaskFilter{State: pelton.Scheduled, Queue: "*"}},
		"state":   {TaskFilter: pelton.TaskFilter{State: "waiting"}},
		"label.*": {TaskFilter: pelton.TaskFilter{Labels: map[string]string{"*": ""}}},
		"label.a": {TaskFilter: pelton.TaskFilter{Labels: map[string]string{"a": "\n"}}},
		"until":   {TaskFilter: pelton.TaskFilter{Since: time.Unix(2, 0), Until: time.Unix(1, 0)}},
	} {
		_, err := client.Tasks(t.Context(), q)
		var invalid *pelton.ValidationError
		if !errors.As(err, &invalid) || len(invalid.Fields) != 1 || invalid.Fields[0].Field != name {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, state := range append(pelton.States(), "") {
		for _, cursor := range []string{"x", "q", "q0.1", "a1", "f1.1", "-", "q1.1.1", "qz.zzzzzzzzzzzzzz"} {
			_, err := client.Tasks(t.Context(), pelton.TaskQuery{TaskFilter: pelton.TaskFilter{State: state}, Cursor: cursor})
			var invalid *pelton.ValidationError
			if !errors.As(err, &invalid) || len(invalid.Fields) != 1 || invalid.Fields[0].Field != "cursor" {
				t.Errorf("state %q, cursor %q: %v", state, cursor, err)
			}
		}
	}
}
