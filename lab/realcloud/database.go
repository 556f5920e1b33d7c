// MariaDB and the services' schemas. Making them takes half a minute, so an empty
// database with the schemas of these versions is kept beside the tools and copied.
package realcloud

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
)

// databaseForm goes into the name of kept databases: another form, another name.
const databaseForm = "2\n"

// bootstrapFile, in a kept database's folder, holds the password that Keystone's
// admin has in it. Each cloud changes it before anything else.
const bootstrapFile = "bootstrap.password"

var databases = []string{"keystone", "glance", "cinder", "nova", "nova_api", "nova_cell0", "neutron", "placement", "heat"}

// startDatabase starts MariaDB with all schemas in it and gives the password of
// Keystone's admin.
func (s *supervisor) startDatabase(ctx context.Context, kept string) (string, error) {
	// Two labs that start at once make them once.
	if err := os.MkdirAll(filepath.Dir(kept), 0o755); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(kept+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", err
	}
	if _, err := os.Stat(kept); err != nil {
		log.Printf("no database for these versions is kept yet: making the schemas, once")
		if err := s.makeDatabase(ctx, kept); err != nil {
			return "", err
		}
	}
	if err := s.layout.run(ctx, "copying the database", nil, "cp", "-a", "--sparse=always", "--reflink=auto", kept+"/data", s.layout.in("mysql")); err != nil {
		return "", err
	}
	password, err := os.ReadFile(filepath.Join(kept, bootstrapFile))
	if err != nil {
		return "", err
	}
	if _, err := s.startMariaDB(ctx, s.layout.in("mysql")); err != nil {
		return "", err
	}
	// A cell says where its database and its queue are; discover_hosts would find
	// the hosts a minute later and do no more than this.
	cell := fmt.Sprintf("update nova_api.cell_mappings set database_connection='%s' where name='cell0';"+
		"update nova_api.cell_mappings set database_connection='%s', transport_url='%s' where name='cell1';",
		s.layout.SQL("nova_cell0"), s.layout.SQL("nova"), s.layout.Rabbit())
	for _, host := range []string{ferryHost, hypervisor} {
		cell += fmt.Sprintf("insert into nova_api.host_mappings (created_at, cell_id, host) select now(), id, '%s' from nova_api.cell_mappings where name='cell1';", host)
	}
	return strings.TrimSpace(string(password)), s.layout.sql(ctx, cell)
}

func (l *layout) sql(ctx context.Context, statements string) error {
	return l.run(ctx, "mariadb", nil, "mariadb", "--no-defaults", "--socket="+l.sqlSocket(), "-uroot", "-e", statements)
}

func (s *supervisor) startMariaDB(ctx context.Context, data string) (*child, error) {
	c, err := s.children.start("mariadb", nil, "/usr/sbin/mariadbd", "--no-defaults", "--user=root", "--datadir="+data, "--socket="+s.layout.sqlSocket(),
		"--pid-file="+s.layout.in("mariadb.own.pid"), "--skip-networking", "--max-connections=600", "--performance-schema=off", "--skip-log-bin",
		// Nothing here outlives the machine, so nothing waits for the disk.
		"--innodb-buffer-pool-size=192M", "--innodb-log-file-size=32M", "--innodb-flush-log-at-trx-commit=0", "--innodb-doublewrite=0",
		"--innodb-flush-method=nosync", "--character-set-server=utf8mb3", "--collation-server=utf8mb3_general_ci")
	if err != nil {
		return nil, err
	}
	return c, c.await(ctx, "a connection", func(ctx context.Context) error { return s.layout.sql(ctx, "select 1") })
}

// makeDatabase makes the schemas in this cloud's folder and keeps them.
func (s *supervisor) makeDatabase(ctx context.Context, kept string) error {
	l := s.layout
	data := l.in("mysql-first")
	if err := l.run(ctx, "mariadb-install-db", nil, "mariadb-install-db", "--no-defaults", "--user=root", "--datadir="+data, "--skip-test-db",
		"--auth-root-authentication-method=normal"); err != nil {
		return err
	}
	server, err := s.startMariaDB(ctx, data)
	if err != nil {
		return err
	}
	if err := l.sql(ctx, "create database "+strings.Join(databases, "; create database ")); err != nil {
		return err
	}
	var raw [16]byte
	if _, err := rand.Read(raw[:]); err != nil {
		return err
	}
	password := hex.EncodeToString(raw[:])
	if err := s.makeSchemas(ctx, password); err != nil {
		return err
	}
	s.children.finish(server, graceOfMariaDB)
	if err := os.MkdirAll(filepath.Dir(kept), 0o755); err != nil {
		return err
	}
	building, err := os.MkdirTemp(filepath.Dir(kept), "building-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(building)
	if err := os.WriteFile(filepath.Join(building, bootstrapFile), []byte(password+"\n"), 0o600); err != nil {
		return err
	}
	if err := l.run(ctx, "keeping the database", nil, "cp", "-a", "--sparse=always", data, filepath.Join(building, "data")); err != nil {
		return err
	}
	// Another lab may have been faster; its database is as good.
	if err := os.Rename(building, kept); err != nil {
		if _, there := os.Stat(kept); there != nil {
			return err
		}
	}
	return os.RemoveAll(data)
}

// makeSchemas runs the services' own tools, two at a time.
func (s *supervisor) makeSchemas(ctx context.Context, password string) error {
	l := s.layout
	etc := func(name string) string { return filepath.Join(l.Etc, name) }
	tool := func(name string) string { return filepath.Join(l.Unpacked, "usr/bin", name) }
	nova := func(words ...string) []string {
		return append([]string{tool("nova-manage"), "--config-file", etc("nova.conf")}, words...)
	}
	url := l.URL("keystone") + "/v3"
	chains := [][][]string{{
		{"keystone-manage", "--config-file", etc("keystone.conf"), "db_sync"},
		{"keystone-manage", "--config-file", etc("keystone.conf"), "bootstrap", "--bootstrap-admin-url", url,
			"--bootstrap-internal-url", url, "--bootstrap-public-url", url, "--bootstrap-region-id", "RegionOne"},
		{"placement-manage", "--config-file", l.in("placement/placement.conf"), "db", "sync"},
		{tool("glance-manage"), "--config-file", etc("glance-api.conf"), "db_sync"},
		{tool("cinder-manage"), "--config-file", etc("cinder.conf"), "db", "sync"},
		{tool("heat-manage"), "--config-file", etc("heat.conf"), "db_sync"},
	}, {
		nova("api_db", "sync"),
		nova("cell_v2", "map_cell0", "--database_connection", l.SQL("nova_cell0")),
		nova("cell_v2", "create_cell", "--name", "cell1", "--database_connection", l.SQL("nova"), "--transport-url", l.Rabbit()),
		nova("db", "sync"),
		{tool("neutron-db-manage"), "--config-file", etc("neutron.conf"), "upgrade", "heads"},
	}}
	failed := make([]error, len(chains))
	var all sync.WaitGroup
	for i, chain := range chains {
		i, chain := i, chain
		all.Add(1)
		go func() {
			defer all.Done()
			for _, words := range chain {
				// The password in the environment of a child that lives a moment, not in its command line.
				environment := []string{"OS_BOOTSTRAP_PASSWORD=" + password, "OS_PLACEMENT_CONFIG_DIR=" + l.in("empty")}
				if failed[i] = l.run(ctx, filepath.Base(words[0])+" "+words[len(words)-1], environment, words...); failed[i] != nil {
					return
				}
			}
		}()
	}
	all.Wait()
	for _, err := range failed {
		if err != nil {
			return err
		}
	}
	return nil
}
