package api

import (
	"bufio"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/peltonq/pelton"
)

// What other dashboards and queues have been caught with.

// Unauthenticated mutation: no call changes anything without a token, whatever the path
// looks like.
func TestUnauthenticatedMutation(t *testing.T) {
	t.Parallel()
	tasks := newFakeTasks()
	task := exampleTask(false)
	tasks.put(task)
	queues, dead, schedules := &fakeQueues{queues: []pelton.Queue{{Name: "default"}}}, &fakeDead{letters: []*pelton.Task{task}}, newFakeSchedules()
	h := serve(t, tasks, func(c *Config) { c.Queues, c.Dead, c.Schedules, c.Token = queues, dead, schedules, "s3cret" })
	for target, body := range everyCall(task.ID.String()) {
		method, path, _ := strings.Cut(strings.ReplaceAll(target, "%s", "default"), " ")
		for _, variant := range []string{path, path + "/", "/." + path, "/healthz/.." + path, "//" + strings.TrimPrefix(path, "/")} {
			for _, headers := range [][]string{nil, {"Authorization", "Bearer "}, {"X-HTTP-Method-Override", "POST"}, {"X-Forwarded-For", "127.0.0.1"}, {"X-Original-URL", "/healthz"}} {
				if w := call(t, h, method, variant, strings.ReplaceAll(body, "%s", "default"), headers...); w.Code != http.StatusUnauthorized {
					t.Errorf("%s %s %v: %d", method, variant, headers, w.Code)
				}
			}
		}
	}
	if len(tasks.accepted()) > 0 || len(queues.asked) > 0 || len(dead.letters) != 1 || len(schedules.all) > 0 || tasks.tasks[task.ID].State != pelton.Queued {
		t.Error("something was changed")
	}
}

// CSRF: a page of another origin changes nothing at an open API, with a body or without.
func TestCrossSiteRequestForgery(t *testing.T) {
	t.Parallel()
	tasks := newFakeTasks()
	queues := &fakeQueues{queues: []pelton.Queue{{Name: "default"}}}
	h := serve(t, tasks, func(c *Config) { c.Queues, c.CheckHost = queues, true })
	for _, headers := range [][]string{
		{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Origin", "https://evil.example"}, {"Origin", "null"},
	} {
		for _, target := range []string{"POST /queues/default/purge", "POST /queues/default/pause", "DELETE /locks/a", "POST /tasks", "PUT /limits/a"} {
			method, path, _ := strings.Cut(target, " ")
			wantProblem(t, call(t, h, method, path, `{"kind":"a"}`, headers...), http.StatusForbidden, kindForbidden)
		}
	}
	// What a form can send without asking the browser for leave, of a browser without
	// either header.
	for _, mediaType := range []string{"text/plain", "application/x-www-form-urlencoded", "multipart/form-data"} {
		wantProblem(t, call(t, h, http.MethodPost, "/tasks", `{"kind":"a"}`, "Content-Type", mediaType), http.StatusUnsupportedMediaType, kindMediaType)
	}
	// DNS rebinding.
	wantProblem(t, call(t, h, http.MethodPost, "/queues/default/purge", "", "Host", "evil.example"), http.StatusMisdirectedRequest, kindMisdirected)
	if len(tasks.accepted()) > 0 || len(queues.asked) > 0 {
		t.Errorf("something was changed: %v", queues.asked)
	}
}

// Timing: what callers show is compared as a hash of one size, in constant time, and in no
// other way. The same is so in package admin.
func TestTokensAreComparedInConstantTime(t *testing.T) {
	t.Parallel()
	for file, function := range map[string]string{"caller.go": "authenticate", "../admin/keyring.go": "Identify"} {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		compared, hashed := 0, 0
		for _, decl := range parsed.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok || fn.Name.Name != function {
				continue
			}
			ast.Inspect(fn, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.CallExpr:
					if sel, ok := n.Fun.(*ast.SelectorExpr); ok && sel.Sel.Name == "ConstantTimeCompare" {
						compared++
						for _, arg := range n.Args {
							if slice, ok := arg.(*ast.SliceExpr); ok && slice.Low == nil && slice.High == nil {
								hashed++ // a whole array, as sha256.Sum256 gives it
							}
						}
					}
				case *ast.BinaryExpr:
					for _, side := range []ast.Expr{n.X, n.Y} {
						if id, ok := side.(*ast.Ident); ok && (id.Name == "shown" || id.Name == "sum" || id.Name == "want" || id.Name == "secret") {
							t.Errorf("%s: %s compares %s by itself", file, function, id.Name)
						}
					}
				}
				return true
			})
		}
		if compared != 1 || hashed != 2 {
			t.Errorf("%s: %s has %d constant-time comparisons of %d arrays", file, function, compared, hashed)
		}
	}
}

// Huge numbers in queries: refused or clamped, never an error of the server, nor a page
// or a wait of that size.
func TestHugeNumbers(t *testing.T) {
	t.Parallel()
	tasks := newFakeTasks()
	done := exampleTask(true)
	tasks.put(done)
	lists := &fakeLister{}
	h := serve(t, tasks, func(c *Config) { c.Lists, c.Audit = lists, &fakeAudit{} })
	numbers := []string{
		"99999999999999999999999999", "9223372036854775808", "9223372036854775807", "18446744073709551616", "2147483648", "-1", "-9223372036854775809",
		"1e309", "1e3", "0x7fffffff", "NaN", "Infinity", "%2b1", "1_000", "٣", "0", "00000000000000000000000000000000000001",
	}
	paths := []string{
		"/tasks?state=scheduled&limit=", "/dead?limit=", "/locks?limit=", "/workers?limit=", "/schedules?limit=", "/audit?limit=",
		"/audit?cursor=", "/dead?cursor=", "/locks?cursor=", "/tasks/" + done.ID.String() + "?wait=", "/audit?since=",
	}
	for _, path := range paths {
		for _, number := range numbers {
			w := call(t, h, http.MethodGet, path+number, "")
			if w.Code != http.StatusOK && w.Code != http.StatusUnprocessableEntity {
				t.Errorf("%s%s: %d %s", path, number, w.Code, w.Body)
			}
		}
	}
	for _, number := range numbers {
		for _, call1 := range []string{"DELETE /locks/a?token=", "PUT /schedules/s?dry_run=true&next="} {
			method, path, _ := strings.Cut(call1, " ")
			if w := call(t, h, method, path+number, `{"every":"1h","task":{"kind":"a"}}`); w.Code >= 500 {
				t.Errorf("%s%s: %d %s", call1, number, w.Code, w.Body)
			}
		}
	}
}

// A request that panics the server: it is answered 500, and the next one as ever.
func TestServerOutlivesPanics(t *testing.T) {
	t.Parallel()
	var nothing *pelton.Task
	for name, value := range map[string]any{"text": "boom", "error": io.ErrUnexpectedEOF, "nil map": (map[string]int)(nil), "nil pointer": nothing} {
		ts := httptest.NewServer(serve(t, nil, func(c *Config) { c.Tasks = panicking{newFakeTasks(), value} }))
		for path, want := range map[string]int{"/tasks/" + exampleTask(false).ID.String(): 500, "/queues": 200, "/healthz": 200} {
			resp, err := ts.Client().Do(newRequest(t, http.MethodGet, ts.URL+path, nil))
			if err != nil {
				t.Fatalf("%s %s: %v", name, path, err)
			}
			_ = resp.Body.Close()
			if resp.StatusCode != want {
				t.Errorf("%s %s: %d", name, path, resp.StatusCode)
			}
		}
		ts.Close()
	}
}

// Slow senders: a body that nobody reads does not keep its connection, whoever is asked.
func TestUnreadBodyDoesNotKeepAConnection(t *testing.T) {
	t.Parallel()
	for _, request := range []string{
		"GET /queues HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc",
		"GET /nowhere HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
		"POST /queues/default/pause HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc",
		"POST /tasks HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: cross-site\r\nContent-Length: 1000\r\n\r\nabc",
	} {
		synctest.Test(t, func(t *testing.T) {
			overPipe(t, serve(t, newFakeTasks(), nil), func(conn net.Conn) {
				began := time.Now()
				exchange(t, conn, request)
				if _, err := conn.Read(make([]byte, 1)); err == nil || time.Since(began) > 2*bodyTimeout {
					t.Errorf("%q: still open after %s: %v", request, time.Since(began), err)
				}
			})
		})
	}
}

// Every answer says that it is no page, nor part of one.
func TestSecurityHeaders(t *testing.T) {
	t.Parallel()
	h := serve(t, newFakeTasks(), func(c *Config) { c.Token = "s3cret" })
	for _, path := range []string{"/queues", "/nowhere", "/healthz", "/openapi.json", "/tasks/x"} {
		for _, headers := range [][]string{nil, {"Authorization", "Bearer s3cret"}} {
			w := call(t, h, http.MethodGet, path, "", headers...)
			for name, want := range map[string]string{
				"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "default-src 'none'", "X-Frame-Options": "DENY",
				"Referrer-Policy": "no-referrer", "Cross-Origin-Resource-Policy": "same-origin", "Cache-Control": "no-store",
			} {
				if got := w.Header().Get(name); !strings.HasPrefix(got, want) {
					t.Errorf("%s %d: %s is %q", path, w.Code, name, got)
				}
			}
		}
	}
}

// Neither payloads nor secrets come into the log, whatever goes wrong.
func TestNothingSecretIsLogged(t *testing.T) {
	t.Parallel()
	out := &buffer{}
	log := slog.New(slog.NewJSONHandler(out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	keys := newFakeKeyring(scoped("root", pelton.ScopeAdmin))
	const secret = "hunter2"
	for _, failing := range []error{nil, pelton.ErrUnavailable, io.ErrUnexpectedEOF} {
		tasks := newFakeTasks()
		tasks.err = failing
		h := serve(t, tasks, func(c *Config) { c.Logger, c.Keyring, c.Token = log, keys, secret })
		for _, headers := range [][]string{{"Authorization", "Bearer " + secret}, bearer("root"), {"Authorization", "Bearer x." + secret}, nil} {
			for _, body := range []string{`{"kind":"a","payload":"` + secret + `"}`, `{"kind":"a","payload":` + secret + `}`, `{"` + secret + `":1}`, secret} {
				call(t, h, http.MethodPost, "/tasks", body, headers...)
				call(t, h, http.MethodPost, "/tasks/batch", `{"tasks":[`+body+`]}`, headers...)
				call(t, h, http.MethodPost, "/tokens", body, headers...)
			}
			call(t, h, http.MethodPost, "/tokens", `{"name":"n","scopes":["read"]}`, headers...)
		}
	}
	if text := out.String(); !strings.Contains(text, "request failed") || strings.Contains(text, secret) || strings.Contains(text, shown("root")) || strings.Contains(text, shown("new-1")) {
		t.Errorf("logged:\n%s", text)
	}
}

// The time limits of a server spare those who wait: an event stream goes on for longer than
// any of them, and a long poll has its minute.
func TestTimeLimitsSpareWhoWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tasks := newFakeTasks()
		tasks.changes = make(chan *pelton.Task)
		task := exampleTask(false)
		tasks.put(task)
		overPipe(t, serve(t, tasks, nil), func(conn net.Conn) {
			const long = 10 * time.Minute // five times the write timeout
			go func() {
				<-time.After(long)
				ended := copyOf(task)
				ended.State, ended.Revision = pelton.Succeeded, task.Revision+1
				tasks.changes <- ended
			}()
			if _, err := io.WriteString(conn, "GET /tasks/"+task.ID.String()+"/events HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			in := bufio.NewReader(conn)
			resp, err := http.ReadResponse(in, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = resp.Body.Close() }()
			text, err := io.ReadAll(resp.Body)
			if err != nil || !strings.Contains(string(text), `"state":"succeeded"`) || time.Since(began) != long {
				t.Errorf("after %s: %v %s", time.Since(began), err, text)
			}
		})
	})
	synctest.Test(t, func(t *testing.T) {
		tasks := newFakeTasks()
		task := exampleTask(false)
		tasks.put(task)
		overPipe(t, serve(t, tasks, nil), func(conn net.Conn) {
			began := time.Now()
			if status := exchange(t, conn, "GET /tasks/"+task.ID.String()+"?wait=60s HTTP/1.1\r\nHost: localhost\r\n\r\n"); status != 200 || time.Since(began) != time.Minute {
				t.Errorf("%d after %s", status, time.Since(began))
			}
		})
	})
}
