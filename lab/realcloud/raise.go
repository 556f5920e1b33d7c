// The order in which the services start. On two cores the time goes into Python's
// imports, so whatever waits for nothing starts at once.
package realcloud

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"
)

// milestone is something that other starts wait for.
type milestone struct{ reached chan struct{} }

func newMilestone() milestone { return milestone{make(chan struct{})} }

func (m milestone) reach() { close(m.reached) }

func (m milestone) wait(ctx context.Context) error {
	select {
	case <-m.reached:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// raise starts everything and seeds it.
func (s *supervisor) raise(ctx context.Context, database, labPassword string) error {
	began := time.Now()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		all     sync.WaitGroup
		once    sync.Once
		failure error
	)
	together := func(what string, act func() error) {
		all.Add(1)
		go func() {
			defer all.Done()
			if err := act(); err != nil {
				once.Do(func() { failure = err })
				cancel()
				return
			}
			log.Printf("%5.1f s  %s", time.Since(began).Seconds(), what)
		}()
	}
	go func() {
		select {
		case lost := <-s.children.lost:
			once.Do(func() { failure = lost.failure() })
			cancel()
		case <-ctx.Done():
		}
	}()
	schemas, queue, identity, images := newMilestone(), newMilestone(), newMilestone(), newMilestone()
	domains, placement, networks, storage := newMilestone(), newMilestone(), newMilestone(), newMilestone()
	waitFor := func(what ...milestone) error {
		for _, m := range what {
			if err := m.wait(ctx); err != nil {
				return err
			}
		}
		return nil
	}
	together("MariaDB with the schemas, Keystone with users and catalogue", func() error {
		bootstrap, err := s.startDatabase(ctx, database)
		if err != nil {
			return err
		}
		schemas.reach()
		if err := s.startKeystone(ctx); err != nil {
			return err
		}
		if err := s.seedIdentity(ctx, bootstrap, labPassword); err != nil {
			return err
		}
		identity.reach()
		return s.seedAppCredential(ctx)
	})
	together("RabbitMQ", func() error {
		if err := s.startRabbit(ctx); err != nil {
			return err
		}
		queue.reach()
		return nil
	})
	together("a place for volumes, libvirt", func() error {
		if err := s.mountVolumes(ctx); err != nil {
			return err
		}
		storage.reach()
		if err := s.startLibvirt(ctx); err != nil {
			return err
		}
		domains.reach()
		return nil
	})
	together("Placement", func() error {
		if err := waitFor(schemas); err != nil {
			return err
		}
		if err := s.startPlacement(ctx); err != nil {
			return err
		}
		placement.reach()
		return nil
	})
	together("Glance", func() error {
		if err := waitFor(schemas); err != nil {
			return err
		}
		glance, err := s.service("glance", "glance-api", "glance-api.conf")
		if err != nil {
			return err
		}
		if err := glance.awaitHTTP(ctx, s.layout.URL("glance")+"/"); err != nil {
			return err
		}
		images.reach()
		return nil
	})
	together("Neutron with its agent and the networks", func() error {
		if err := waitFor(schemas, queue); err != nil {
			return err
		}
		return s.startNeutron(ctx, identity, networks)
	})
	together("Cinder with two back ends", func() error {
		if err := waitFor(schemas, queue, storage); err != nil {
			return err
		}
		return s.startCinder(ctx, identity)
	})
	together("Nova with two compute hosts, the conversion host", func() error {
		if err := waitFor(schemas, queue); err != nil {
			return err
		}
		return s.startNova(ctx, func() error { return waitFor(identity, placement) }, func() error { return waitFor(domains) },
			func() error { return waitFor(images, networks) })
	})
	if s.config.Heat {
		together("Heat", func() error {
			if err := waitFor(schemas, queue, identity); err != nil {
				return err
			}
			return s.startHeat(ctx)
		})
	}
	all.Wait()
	if failure == nil {
		log.Printf("%5.1f s  the cloud is up", time.Since(began).Seconds())
	}
	return failure
}

// service starts one of the unpacked programs with its settings and a log of its own.
func (s *supervisor) service(name, program string, settings ...string) (*child, error) {
	words := []string{filepath.Join(s.layout.Unpacked, "usr/bin", program)}
	if program == ferryProgram {
		words = []string{"/usr/bin/python3", s.layout.in("python/" + program)}
	}
	for _, file := range settings {
		words = append(words, "--config-file", filepath.Join(s.layout.Etc, file))
	}
	if name != "glance" { // says so itself in its settings
		words = append(words, "--log-file", filepath.Join(s.layout.Log, name+".log"))
	}
	return s.children.start(name, []string{"VMFERRY_LAB_DEVICES=" + s.layout.in("run/devices.sock")}, words...)
}

// uwsgi serves a WSGI program in one process: Keystone's cache is in it.
func (s *supervisor) uwsgi(name, program string, environment ...string) (*child, error) {
	return s.children.start(name, environment, "/usr/bin/uwsgi_python3", "--need-app", "--master", "--die-on-term", "--enable-threads",
		"--thunder-lock", "--buffer-size", "65535", "--processes", "1", "--threads", "4", "--lazy-apps", "--add-header", "Connection:close",
		"--disable-logging", "--http-socket", s.layout.listens(name), "--wsgi-file", program)
}

func (s *supervisor) startKeystone(ctx context.Context) error {
	c, err := s.uwsgi("keystone", "/usr/bin/keystone-wsgi-public", "OS_KEYSTONE_CONFIG_FILES="+filepath.Join(s.layout.Etc, "keystone.conf"))
	if err != nil {
		return err
	}
	return c.awaitHTTP(ctx, s.layout.URL("keystone")+"/v3")
}

func (s *supervisor) startPlacement(ctx context.Context) error {
	c, err := s.uwsgi("placement", "/usr/bin/placement-api", "OS_PLACEMENT_CONFIG_DIR="+s.layout.in("placement"))
	if err != nil {
		return err
	}
	return c.awaitHTTP(ctx, s.layout.URL("placement")+"/")
}

func (s *supervisor) startHeat(ctx context.Context) error {
	if _, err := s.service("heat-engine", "heat-engine", "heat.conf"); err != nil {
		return err
	}
	api, err := s.service("heat-api", "heat-api", "heat.conf")
	if err != nil {
		return err
	}
	if err := api.awaitHTTP(ctx, s.layout.URL("heat")+"/"); err != nil {
		return err
	}
	// The API passes each call on to an engine. One that came before the engine
	// listens is lost, and the API waits a minute for its answer.
	return until(ctx, "Heat's engine", func() error {
		ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		return s.owner.call(ctx, http.MethodGet, s.layout.URL("heat")+"/v1/"+s.project+"/stacks", nil, nil)
	})
}

func (s *supervisor) startRabbit(ctx context.Context) error {
	l := s.layout
	names := []string{fmt.Sprintf("ERL_EPMD_PORT=%d", l.ports["epmd"]), "ERL_EPMD_ADDRESS=127.0.0.1"}
	epmd, err := s.children.start("epmd", names, "/usr/bin/epmd")
	if err != nil {
		return err
	}
	if err := epmd.awaitPort(ctx, l.listens("epmd")); err != nil {
		return err
	}
	c, err := s.children.start("rabbitmq", append(names, "HOME="+l.in("rabbit"), "RABBITMQ_CONF_ENV_FILE="+l.in("rabbit/env.conf"),
		"RABBITMQ_NODENAME="+l.NodeName, "RABBITMQ_NODE_IP_ADDRESS=127.0.0.1", fmt.Sprintf("RABBITMQ_NODE_PORT=%d", l.ports["rabbit"]),
		fmt.Sprintf("RABBITMQ_DIST_PORT=%d", l.ports["rabbit-dist"]), "RABBITMQ_CONFIG_FILE="+l.in("rabbit/rabbitmq.conf"),
		"RABBITMQ_MNESIA_BASE="+l.in("rabbit/mnesia"), "RABBITMQ_LOG_BASE="+filepath.Join(l.Log, "rabbit"),
		"RABBITMQ_ENABLED_PLUGINS_FILE="+l.in("rabbit/enabled_plugins"), "RABBITMQ_PID_FILE="+l.in("rabbit/pid"),
		// Erlang would turn in circles on both cores while it has nothing to do.
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none +sbwtdio none +S 2:2"),
		"/usr/lib/rabbitmq/bin/rabbitmq-server")
	if err != nil {
		return err
	}
	return c.awaitPort(ctx, l.listens("rabbit"))
}

// volumesSize is how large the file system for volumes may grow; its file is sparse.
const (
	volumesSize  = "200G"
	volumesImage = "volumes.img"
)

// mountVolumes makes the file system that plays the NFS server's. One of its own:
// Nova and Cinder tell by its number whether an export is mounted.
func (s *supervisor) mountVolumes(ctx context.Context) error {
	l := s.layout
	image, volumes := l.in(volumesImage), filepath.Join(l.Dir, "volumes")
	if err := os.MkdirAll(volumes, 0o700); err != nil {
		return err
	}
	for _, words := range [][]string{
		{"truncate", "-s", volumesSize, image},
		{"mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1", image},
		{"/bin/mount", "-o", "loop,noatime", image, volumes},
		// What nova-compute mounts here later, QEMU must see, whose mounts are libvirtd's.
		{"/bin/mount", "--bind", l.in("nova/mnt"), l.in("nova/mnt")},
		{"/bin/mount", "--make-shared", l.in("nova/mnt")},
	} {
		if err := l.run(ctx, words[0], nil, words...); err != nil {
			return err
		}
	}
	for _, backend := range backends {
		if err := os.MkdirAll(l.export(backend), 0o700); err != nil {
			return err
		}
	}
	return nil
}

func (s *supervisor) startLibvirt(ctx context.Context) error {
	c, err := s.children.start("libvirtd", nil, s.layout.in("shim/private-libvirtd"), s.layout.in("libvirt"))
	if err != nil {
		return err
	}
	return c.await(ctx, "its socket", func(ctx context.Context) error {
		return s.layout.run(ctx, "virsh", nil, "virsh", "-c", s.layout.LibvirtURI(), "version")
	})
}

func (s *supervisor) startNeutron(ctx context.Context, identity, networks milestone) error {
	l := s.layout
	server, err := s.service("neutron", "neutron-server", "neutron.conf")
	if err != nil {
		return err
	}
	if err := l.noteInterface(l.Bridge); err != nil {
		return err
	}
	for _, words := range [][]string{{"link", "add", l.Bridge, "type", "bridge"}, {"link", "set", l.Bridge, "up"}} {
		if said, err := exec.CommandContext(ctx, "ip", words...).CombinedOutput(); err != nil {
			return fmt.Errorf("the bridge %s: %v: %s", l.Bridge, err, said)
		}
	}
	if err := server.awaitHTTP(ctx, l.URL("neutron")+"/"); err != nil {
		return err
	}
	if _, err := s.service("linuxbridge-agent", "neutron-linuxbridge-agent", "neutron.conf", "linuxbridge-agent.ini"); err != nil {
		return err
	}
	if err := identity.wait(ctx); err != nil {
		return err
	}
	if err := s.seedNetworks(ctx); err != nil {
		return err
	}
	if err := s.seedDualNetworks(ctx); err != nil {
		return err
	}
	networks.reach()
	if err := s.seedRouter(ctx); err != nil {
		return err
	}
	return s.awaitAgent(ctx)
}

func (s *supervisor) startCinder(ctx context.Context, identity milestone) error {
	api, err := s.service("cinder-api", "cinder-api", "cinder.conf")
	if err != nil {
		return err
	}
	for _, name := range []string{"cinder-scheduler", "cinder-volume"} {
		if _, err := s.service(name, name, "cinder.conf"); err != nil {
			return err
		}
	}
	if err := identity.wait(ctx); err != nil {
		return err
	}
	if err := api.awaitHTTP(ctx, s.layout.URL("cinder")+"/"); err != nil {
		return err
	}
	if err := s.seedStorage(ctx); err != nil {
		return err
	}
	return s.admin.call(ctx, "PUT", s.cinder("/os-quota-sets/"+s.project), obj{"quota_set": obj{"volumes": 50}}, nil)
}

// startNova starts what belongs to Nova. placed, hosted and imaged wait for what
// the next ones need: Placement with an account, libvirt, an image store and networks.
func (s *supervisor) startNova(ctx context.Context, placed, hosted, imaged func() error) error {
	api, err := s.service("nova-api", "nova-api", "nova.conf")
	if err != nil {
		return err
	}
	if err := placed(); err != nil {
		return err
	}
	for _, name := range []string{"nova-conductor", "nova-scheduler"} {
		if _, err := s.service(name, name, "nova.conf"); err != nil {
			return err
		}
	}
	if err := hosted(); err != nil {
		return err
	}
	for name, program := range map[string]string{"nova-compute": "nova-compute", "nova-compute-ferry": ferryProgram} {
		if _, err := s.service(name, program, name+".conf"); err != nil {
			return err
		}
	}
	if err := api.awaitHTTP(ctx, s.layout.URL("nova")+"/"); err != nil {
		return err
	}
	if err := s.seedFlavors(ctx); err != nil {
		return err
	}
	if err := imaged(); err != nil {
		return err
	}
	return s.seedConversionHost(ctx)
}
