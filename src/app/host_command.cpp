// host: the conversion host made, looked at and removed. What it is made of is target/openstack's; here are the user's
// files, the terminal, and the questions to this very machine.
#include <fmt/format.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <sstream>

#include "app/commands.hpp"
#include "app/connections.hpp"
#include "app/console.hpp"
#include "app/findings.hpp"
#include "base/error.hpp"
#include "openstack/instance.hpp"
#include "store/store.hpp"
#include "target/openstack/conversion_host.hpp"
#include "target/openstack/ssh_greeting.hpp"
#include "term/text.hpp"

namespace vmferry::app {

namespace {

namespace host = target::openstack;
using nlohmann::json;
using plan::Finding;
using plan::Level;

void print_json(const json& object) { print_out(object.dump(-1, ' ', false, json::error_handler_t::replace) + "\n"); }

host::Saying saying(const config::Options& options) {
  if (options.json) return [](const std::string& what) { print_json({{"event", "step"}, {"what", what}}); };
  return [](const std::string& what) { print_err("  " + what + "\n"); };
}

// The key line of a .pub file.
std::string read_public_key(const std::filesystem::path& file) {
  const std::string text = read_file(file, "--public-key");
  // Before anything of it can get into a message or over the network.
  if (text.find("PRIVATE KEY") != std::string::npos)
    throw Error(Fault::config,
                fmt::format("--public-key {} is a private key: give the file that ends in .pub", file.string()));
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.pop_back();
    if (line.empty() || line.starts_with('#')) continue;
    const bool known = line.starts_with("ssh-") || line.starts_with("ecdsa-") || line.starts_with("sk-");
    if (known && line.find(' ') != std::string::npos) return line;
    break;
  }
  throw Error(Fault::config, fmt::format("--public-key {} has no line like \"ssh-ed25519 AAAA...\"", file.string()));
}

std::string public_key_of(const config::Host& wish) {
  if (!wish.public_key.empty()) return read_public_key(wish.public_key);
  if (!wish.key_pair.empty()) return {};
  if (const char* home = std::getenv("HOME"); home && *home)
    for (const char* name : {"id_ed25519.pub", "id_ecdsa.pub", "id_rsa.pub"})
      if (const std::filesystem::path file = std::filesystem::path(home) / ".ssh" / name; std::filesystem::exists(file))
        return read_public_key(file);
  throw Error(Fault::usage,
              "no public key that the host shall let in: give --public-key FILE, or --key-pair NAME of one that is "
              "there (ssh-keygen makes one)");
}

host::HostWish wish_of(const config::Options& options) {
  const config::Host& given = options.host;
  host::check_host_name(given.name);
  host::HostWish wish;
  wish.name = given.name;
  wish.image = given.image;
  wish.flavor = given.flavor;
  wish.network = given.network;
  wish.key_pair = given.key_pair;
  wish.public_key = public_key_of(given);
  if (!given.ssh_from.empty()) wish.ssh_from = given.ssh_from;
  wish.ssh_port = given.ssh_port;
  wish.floating_network = given.floating_network;
  wish.availability_zone = options.openstack.availability_zone;
  if (!given.user_data.empty()) wish.user_data = read_user_data(given.user_data);
  wish.config_drive = given.config_drive;
  wish.boot_volume_gib = given.boot_volume_gib;
  wish.boot_volume_type = given.boot_volume_type;
  return wish;
}

std::optional<host::Address> ssh_address_of(const config::Host& wish) {
  if (wish.ssh_address.empty()) return std::nullopt;
  return host::parse_address(wish.ssh_address, wish.ssh_port);
}

json as_json(const std::vector<host::Piece>& pieces) {
  json list = json::array();
  for (const host::Piece& piece : pieces)
    list.push_back({{"kind", piece.kind}, {"name", piece.name}, {"id", piece.id}, {"made", piece.made}});
  return list;
}

std::string as_table(const std::vector<host::Piece>& pieces, bool with_made) {
  std::vector<std::vector<std::string>> rows;
  for (const host::Piece& piece : pieces) {
    rows.push_back({piece.kind, piece.name, piece.id.empty() ? "-" : piece.id});
    if (with_made) rows.back().push_back(piece.made ? "made" : "was there");
  }
  std::vector<std::string> header{"WHAT", "NAME", "ID"};
  if (with_made) header.emplace_back("");
  return term::table(header, rows, 0);
}

// "ssh -p 2222 debian@192.0.2.5"
std::string ssh_command(const host::Host& made, const host::Address& address) {
  return fmt::format("ssh {}{}@{}", address.port == 22 ? "" : fmt::format("-p {} ", address.port),
                     made.admin_user.empty() ? "USER" : made.admin_user, address.host);
}

void print_host(const config::Options& options, const host::Host& made, const host::Address& address,
                const std::string& greeting) {
  const std::string command = address.host.empty() ? "" : ssh_command(made, address);
  if (options.json)
    return print_json({{"event", "host"},
                       {"name", options.host.name},
                       {"server", made.id.value},
                       {"status", made.status},
                       {"address", made.address},
                       {"ssh", command},
                       {"greeting", greeting},
                       {"pieces", as_json(made.pieces)},
                       {"remarks", made.remarks}});
  const bool ours = std::any_of(made.pieces.begin(), made.pieces.end(), [](const host::Piece& p) { return p.made; });
  print_out(as_table(made.pieces, true));
  print_out(fmt::format("\n{} is {}{}{}\n", options.host.name, ours ? "ready: " : "as it was: ", made.status,
                        greeting.empty() ? "" : fmt::format(", {} answers at {}", greeting, address.text())));
  if (!command.empty())
    print_out(fmt::format("try:   {}{}\n", command,
                          made.admin_user.empty() ? "    (USER is the image's: debian, ubuntu, cloud-user...)" : ""));
  print_out(
      fmt::format("next:  install vmferry there, and `vmferry host check --name {}` on it tells what is missing\n"
                  "       its instance id, should the metadata service not tell: --instance-id {}\n",
                  options.host.name, made.id.value));
  for (const std::string& remark : made.remarks) print_out(fmt::format("note:  {}\n", remark));
  if (made.open_to_all)
    print_out("hint:  everybody may reach its SSH port; --ssh-from CIDR, also later, lets in only who must\n");
}

int deploy(const Surroundings& around, std::stop_token stop) {
  const config::Options& options = around.options;
  const host::HostWish wish = wish_of(options);
  const std::optional<host::Address> given = ssh_address_of(options.host);
  const host::Saying say = saying(options);
  const std::unique_ptr<openstack::Cloud> cloud = connect_cloud(around, stop);
  const host::Host made = host::deploy_host(*cloud, wish, say, stop);
  const host::Address address = given.value_or(host::Address{made.address, options.host.ssh_port});
  std::string greeting;
  if (!options.host.no_wait_ssh && !address.host.empty()) {
    say(fmt::format("waiting for SSH at {}", address.text()));
    const std::chrono::seconds patience(options.host.ssh_timeout);
    const host::Greeting heard = host::await_ssh(address, patience, around.clock, say, stop);
    if (!heard.ssh)
      throw Error(
          Fault::timeout,
          fmt::format("server {} is {}, but nothing greets as SSH at {} after {} s: {}. Is that address reached "
                      "from here (--ssh-address HOST:PORT, or --no-wait-ssh), is this machine within --ssh-from, "
                      "and does the image start an SSH server (openstack console log show {})? What was made "
                      "stays; the same command goes on",
                      made.id.value, made.status, address.text(), patience.count(), heard.said, made.id.value));
    greeting = heard.said;
  }
  print_host(options, made, address, greeting);
  return 0;
}

// Elsewhere nobody knows, and that is no problem.
std::optional<ServerId> instance_here(const Surroundings& around, std::stop_token stop) {
  openstack::InstanceSources sources;
  if (const std::string& url = around.options.openstack.metadata_url; !url.empty()) sources.metadata_url = url;
  try {
    return openstack::this_instance(*metadata_transport(around, std::chrono::seconds(3)), sources, stop);
  } catch (const Error&) {
    return std::nullopt;
  }
}

// What vmferry needs of the machine it runs on.
void check_this_machine(const Surroundings& around, std::vector<Finding>& found, std::stop_token stop) {
  const std::string object = "this host";
  check_reading(around, {"curl", "file"}, found, stop);
  try {
    make_converter(around, JobId{"check"})->check(model::Vm{}, stop);
    found.push_back(
        {Level::note, object, "guests can be converted: virt-v2v-in-place, qemu-img and qemu-nbd work", ""});
  } catch (const Error& e) {
    found.push_back({Level::warning, object, fmt::format("guests cannot be converted here: {}", e.what()),
                     "install virt-v2v and qemu-utils, or cut over with --run-v2v=false"});
  }
  if (::geteuid() != 0)
    found.push_back({Level::problem, object, "this is not root, who alone may open the devices of attached volumes",
                     "run vmferry as root"});
  const std::filesystem::path& given = around.options.openstack.device_directory;
  const std::filesystem::path devices = given.empty() ? "/dev/disk/by-id" : given;
  std::error_code unknown;
  const bool there = std::filesystem::is_directory(devices, unknown);
  const bool udev = std::filesystem::exists("/run/udev/control", unknown);
  if (given.empty() && !udev)
    found.push_back({Level::problem, object, "udev does not run: attached volumes do not appear by their serial",
                     "install and start systemd-udevd (Debian: udev)"});
  else if (!there && given.empty())
    found.push_back({Level::note, object,
                     fmt::format("there is no {} yet: udev makes it with the first volume that is "
                                 "attached",
                                 devices.string()),
                     ""});
  else if (!there)
    found.push_back(
        {Level::problem, object, fmt::format("there is no folder {}", devices.string()), "correct --device-dir"});
  check_space(around, true, found);
}

int check(const Surroundings& around, std::stop_token stop) {
  const config::Options& options = around.options;
  host::check_host_name(options.host.name);
  host::HostQuestion question;
  question.name = options.host.name;
  question.instance_id = options.openstack.instance_id;
  question.volume_zone = options.openstack.volume_availability_zone;
  question.ask_ssh = !options.host.no_wait_ssh;
  question.ssh_address = ssh_address_of(options.host);
  question.ssh_port = options.host.ssh_port;
  question.here = instance_here(around, stop);
  question.or_here = question.name == config::Host().name;  // nobody named one
  std::vector<Finding> found;
  std::optional<ServerId> server;
  ask(found, "OpenStack", [&] {
    const std::unique_ptr<openstack::Cloud> cloud = connect_cloud(around, stop);
    server = host::examine_host(*cloud, question, found, stop);
  });
  if (server && question.here == server)
    check_this_machine(around, found, stop);
  else
    found.push_back({Level::note, "this host",
                     "it is not the conversion host: run `vmferry host check` there as well, for nbdkit, virt-v2v and "
                     "the devices",
                     ""});
  return show(found, options.json);
}

int destroy(const Surroundings& around, std::stop_token stop) {
  const config::Options& options = around.options;
  const std::unique_ptr<openstack::Cloud> cloud = connect_cloud(around, stop);
  const host::HostParts parts = host::find_host(*cloud, options.host.name, stop);
  const std::vector<host::Piece> pieces = host::pieces_of(parts);
  if (!parts.empty()) {
    host::refuse_while_used(*cloud, parts, stop);
    if (!options.host.yes) {
      print_err(as_table(pieces, false));
      const auto answer = ask_yes(fmt::format("Delete all of this in {}?", cloud->describe()));
      if (!answer) throw Error(Fault::usage, "vmferry host destroy asks on a terminal; without one, add --yes");
      if (!*answer) {
        print_err("nothing was deleted\n");
        return 0;
      }
    }
    host::destroy_host(*cloud, parts, saying(options), stop);
  }
  if (options.json)
    print_json({{"event", "host"}, {"name", options.host.name}, {"deleted", as_json(pieces)}});
  else if (parts.empty())
    print_out(fmt::format("nothing in {} carries the mark of the host '{}'\n", cloud->describe(), options.host.name));
  else
    print_out(fmt::format("{} is gone, with all that was made for it\n", options.host.name));
  return 0;
}

}  // namespace

int run_host(const config::Options& options, Clock& clock, std::stop_token stop) {
  Places places;
  places.state = options.state_directory.empty() ? store::default_directory() : options.state_directory;
  process::SystemRunner runner;
  if (options.host.action == "check") {
    log::Log log;
    return check({options, places, clock, runner, log}, stop);
  }
  log::Log log = common_log(places, options);
  const Surroundings around{options, places, clock, runner, log};
  try {
    return options.host.action == "deploy" ? deploy(around, stop) : destroy(around, stop);
  } catch (Error& e) {
    log.error(e.explain(), {{"fault", to_string(e.fault())}, {"name", e.name()}});
    throw;
  }
}

}  // namespace vmferry::app
