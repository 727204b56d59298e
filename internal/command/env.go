package command

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/peltonq/pelton"
)

// inherited names the variables that a program gets from the worker's own
// environment. Everything else stays behind, tokens and passwords above all.
func inherited() []string {
	return []string{"PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "USER"}
}

// cleanEnv is the part of environ ("NAME=value" each) that a program may see.
func cleanEnv(environ []string) []string {
	names := inherited()
	var kept []string
	for _, variable := range environ {
		if name, _, found := strings.Cut(variable, "="); found && slices.Contains(names, name) {
			kept = append(kept, variable)
		}
	}
	return kept
}

// taskEnv tells a program about its task. Times are RFC 3339 in UTC;
// PELTON_TASK_DEADLINE is there only if ctx has a deadline, PELTON_TASK_SCHEDULE and
// PELTON_TASK_TICK only for a task of a schedule.
func taskEnv(ctx context.Context, task *pelton.Task) []string {
	env := []string{
		"PELTON_TASK_ID=" + task.ID.String(),
		"PELTON_TASK_KIND=" + task.Kind,
		"PELTON_TASK_QUEUE=" + task.Queue,
		"PELTON_TASK_PRIORITY=" + string(task.Priority),
		"PELTON_TASK_ATTEMPT=" + strconv.Itoa(task.Attempt),
		"PELTON_TASK_MAX_ATTEMPTS=" + strconv.Itoa(task.MaxAttempts),
		"PELTON_TASK_CREATED_AT=" + task.CreatedAt.UTC().Format(time.RFC3339Nano),
	}
	if deadline, ok := ctx.Deadline(); ok {
		env = append(env, "PELTON_TASK_DEADLINE="+deadline.UTC().Format(time.RFC3339Nano))
	}
	if s := task.Schedule; s != nil {
		env = append(env, "PELTON_TASK_SCHEDULE="+s.Name, "PELTON_TASK_TICK="+s.Tick.UTC().Format(time.RFC3339Nano))
	}
	return env
}
