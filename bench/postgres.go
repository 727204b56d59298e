package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"github.com/jackc/pgx/v5"
)

// postgres is a PostgreSQL of our own with the defaults of its initdb.
type postgres struct {
	process *child
	data    string
	url     string
}

// postgresProgram finds a program of PostgreSQL, in PATH or where Debian keeps them;
// of several versions there, the last.
func postgresProgram(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	if err != nil || len(found) == 0 {
		return "", fmt.Errorf("PostgreSQL's %s: %w (apt-get install postgresql)", name, errMissing)
	}
	slices.Sort(found)
	return found[len(found)-1], nil
}

// postgresUser is who PostgreSQL runs as: it refuses root.
func postgresUser() (uid, gid int, err error) {
	if os.Getuid() != 0 {
		return 0, 0, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return 0, 0, fmt.Errorf("a user to run PostgreSQL as, since root may not: %w", errMissing)
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	return uid, gid, errors.Join(err1, err2)
}

func (p *postgres) startPostgres(ctx context.Context, dir string) error {
	initdb, err1 := postgresProgram("initdb")
	server, err2 := postgresProgram("postgres")
	uid, gid, err3 := postgresUser()
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	p.data = filepath.Join(dir, "data")
	if err := os.Mkdir(p.data, 0o700); err != nil {
		return err
	}
	if uid != 0 {
		if err := os.Chown(p.data, uid, gid); err != nil {
			return err
		}
	}
	initializing, err := program{
		path: initdb, args: []string{"--pgdata", p.data, "--auth", "trust", "--username", "bench", "--no-sync"},
		dir: "/", uid: uid, gid: gid, log: filepath.Join(dir, "initdb.log"),
	}.start(ctx)
	if err != nil {
		return err
	}
	<-initializing.done
	if err := initializing.failure(); err != nil {
		return err
	}
	port, err := freePort(ctx)
	if err != nil {
		return err
	}
	p.url = fmt.Sprintf("postgres://bench@127.0.0.1:%d/postgres?sslmode=disable", port)
	p.process, err = program{
		path: server, args: []string{"-D", p.data, "-h", "127.0.0.1", "-p", strconv.Itoa(port), "-k", ""},
		dir: "/", uid: uid, gid: gid, log: filepath.Join(dir, "postgres.log"), quit: syscall.SIGINT, // fast shutdown
	}.start(ctx)
	if err != nil {
		return err
	}
	err = p.process.until(ctx, func(ctx context.Context) error {
		conn, err := pgx.Connect(ctx, p.url)
		if err != nil {
			return err
		}
		return conn.Close(ctx)
	})
	if err != nil {
		return errors.Join(err, p.stopPostgres())
	}
	return nil
}

// footprint leaves out the log of transactions, whose files are used again, and the
// memory: that is buffers of a configured size, which tasks before have filled.
func (p *postgres) footprint() ([]int, string) { return nil, filepath.Join(p.data, "base") } //nolint:unparam // as contestants have it

func (p *postgres) stopPostgres() error {
	return errors.Join(p.process.stop(), os.RemoveAll(p.data))
}
