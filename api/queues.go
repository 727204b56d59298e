package api

import (
	"context"
	"fmt"
	"net/http"

	"github.com/peltonq/pelton"
)

// queueList is the answer of GET /queues.
type queueList struct {
	Items []pelton.Queue `json:"items"`
}

func (s *server) listQueues(ctx context.Context, _ *struct{}) (*answer, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	queues, err := s.Queues.Queues(ctx)
	if err != nil {
		return nil, err
	}
	if queues == nil {
		queues = []pelton.Queue{} // [] and not null
	}
	return encodeAnswer(queueList{Items: queues})
}

// queueInput is the request of GET /queues/{queue}.
type queueInput struct {
	Queue string `path:"queue" doc:"The queue's name." example:"default"`
}

func (s *server) getQueue(ctx context.Context, in *queueInput) (*answer, error) {
	if err := pelton.ValidateQueue(in.Queue); err != nil {
		return nil, fieldProblem(kindInvalid, fieldError{"path.queue", plain(err.Error())})
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	queue, err := s.Queues.Queue(ctx, in.Queue)
	if err != nil {
		return nil, err
	}
	return encodeAnswer(queue)
}

// healthAnswer is the answer of GET /healthz and /readyz.
type healthAnswer struct {
	Status string `json:"status"`
}

// health says that the process answers, whatever the broker does.
func (s *server) health(context.Context, *struct{}) (*answer, error) {
	return encodeAnswer(healthAnswer{"ok"})
}

func (s *server) readiness(context.Context, *struct{}) (*answer, error) {
	if err := s.Ready(); err != nil {
		return nil, newProblem(kindUnavailable, "not ready: %s", err).withHeader("Retry-After", retryAfter)
	}
	return encodeAnswer(healthAnswer{"ready"})
}

func (s *server) document(context.Context, *struct{}) (*answer, error) {
	return &answer{Status: http.StatusOK, ContentType: openAPIMediaType, Body: s.spec}, nil
}

func encodeAnswer(v any) (*answer, error) {
	body, err := encode(v)
	if err != nil {
		return nil, fmt.Errorf("write %T: %w", v, err)
	}
	return jsonAnswer(http.StatusOK, body), nil
}
