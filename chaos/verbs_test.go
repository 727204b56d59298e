package chaos_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/chaos/history"
)

// verb is a call that acts on a task, and the events that tell of it.
type verb struct {
	name                        string
	sent, ok, conflict, unknown history.Kind
}

func cancelling() verb {
	return verb{"cancel", history.CancelSent, history.CancelOK, history.CancelConflict, history.CancelUnknown}
}

func hurrying() verb {
	return verb{"run", history.HurrySent, history.HurryOK, history.HurryConflict, history.HurryUnknown}
}

// cancel asks for the end of a task and writes down the answer.
func (p *producer) cancel(id pelton.ID) { p.act(cancelling(), id) }

// act makes the call once, writes down the answer, and reports whether it tells what
// came of the call.
func (p *producer) act(v verb, id pelton.ID) (told bool) {
	p.s.write(p.log, history.Event{Kind: v.sent, Task: id})
	ctx, stop := context.WithTimeout(context.Background(), 10*time.Second)
	defer stop()
	began := history.Now()
	status, answer, err := call(ctx, http.MethodPost, p.url("/tasks/"+id.String()+"/"+v.name), "")
	e := history.Event{Kind: v.unknown, Began: began, Task: id}
	var task pelton.Task
	switch {
	case err == nil && status == http.StatusOK && json.Unmarshal(answer, &task) == nil:
		e.Kind, e.Record = v.ok, view(&task)
	case err == nil && status == http.StatusConflict:
		e.Kind = v.conflict
	default:
		e.Note = fmt.Sprintf("%d %s %v", status, answer, err)
	}
	p.s.write(p.log, e)
	return e.Kind != v.unknown
}

// insist makes the call until the answer tells what came of it.
func (p *producer) insist(v verb, id pelton.ID) {
	for deadline := time.Now().Add(time.Minute); !p.act(v, id); {
		if time.Now().After(deadline) {
			p.s.Errorf("%s of task %s has no answer after a minute", v.name, id)
			return
		}
		p.s.pause(100 * time.Millisecond)
	}
}
