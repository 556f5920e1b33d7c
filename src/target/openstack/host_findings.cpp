// What speaks for and against a server as a conversion host, as far as the cloud and the network tell.
#include <fmt/format.h>

#include <algorithm>

#include "base/error.hpp"
#include "openstack/attachments.hpp"
#include "openstack/volumes.hpp"
#include "target/cloud.hpp"
#include "target/openstack/conversion_host.hpp"
#include "target/openstack/room.hpp"

namespace vmferry::target::openstack {

namespace {

namespace client = ::vmferry::openstack;
using plan::Finding;
using plan::Level;

class Examination {
 public:
  Examination(client::Cloud& cloud, const HostQuestion& question, std::vector<Finding>& found, std::stop_token stop)
      : cloud_(cloud), question_(question), found_(found), stop_(stop) {}

  std::optional<ServerId> run() {
    if (!find_server()) return std::nullopt;
    judge_server();
    ask([&] { judge_ports(); });
    ask([&] { judge_ssh(); });
    ask([&] { judge_volumes_attached(); });
    ask([&] { judge_zones(); });
    return server_.id;
  }

 private:
  std::string object() const { return fmt::format("server {} ({})", server_.name, server_.id.value); }
  void add(Level level, const std::string& fact, const std::string& remedy = "") {
    found_.push_back({level, server_.id.empty() ? "conversion host " + question_.name : object(), fact, remedy});
  }
  // An error is a finding: the next question is asked all the same.
  void ask(const std::function<void()>& question) {
    try {
      question();
    } catch (const Error& e) {
      add(Level::problem, e.what());
    }
  }

  bool find_server();
  void judge_server();
  void judge_ports();
  void judge_ssh();
  void judge_volumes_attached();
  void judge_zones();

  client::Cloud& cloud_;
  const HostQuestion& question_;
  std::vector<Finding>& found_;
  std::stop_token stop_;
  client::Server server_;
  std::vector<client::Port> ports_;
};

bool Examination::find_server() {
  client::Service& compute = cloud_.compute(stop_);
  if (!question_.instance_id.empty()) {
    if (auto server = client::servers::look_up(compute, ServerId{question_.instance_id}, stop_)) {
      server_ = *std::move(server);
      return true;
    }
    add(Level::problem, fmt::format("{} has no instance {}", cloud_.describe(), question_.instance_id),
        "give another --instance-id, or the project that it is in");
    return false;
  }
  const std::vector<client::Server> marked = client::servers::find(compute, {{host_key::host, question_.name}}, stop_);
  if (marked.size() > 1)
    add(Level::problem, fmt::format("{} servers carry its mark", marked.size()),
        "delete all but one, or name one with --instance-id");
  if (!marked.empty()) {
    server_ = marked.front();
    return true;
  }
  if (question_.here && question_.or_here)
    if (auto server = client::servers::look_up(compute, *question_.here, stop_)) {
      add(Level::note, "no such host was deployed: this is about the instance that vmferry runs in now");
      server_ = *std::move(server);
      return true;
    }
  const bool named = !client::servers::find_by_name(compute, question_.name, stop_).empty();
  add(Level::problem,
      fmt::format("{} has no such host{}", cloud_.describe(),
                  named ? "; a server of that name is there, but vmferry did not make it" : ""),
      named ? "look at it with --instance-id ID, or deploy one of another --name"
            : "make it with `vmferry host deploy`");
  return false;
}

void Examination::judge_server() {
  if (const std::string host = value(server_.metadata, host_key::host); !host.empty())
    add(Level::note, fmt::format("deployed by vmferry as '{}'", host));
  else
    add(Level::note, "not deployed by vmferry: `vmferry host destroy` leaves it alone");
  if (server_.status != "ACTIVE")
    add(Level::problem, fmt::format("it is {}{}{}", server_.status, server_.fault.empty() ? "" : ": ", server_.fault),
        server_.status == "SHUTOFF" ? "openstack server start " + server_.id.value
                                    : "openstack server show " + server_.id.value);
}

void Examination::judge_ports() {
  ports_ = client::ports::of_server(cloud_.network(stop_), server_.id, stop_);
  if (ports_.empty()) add(Level::problem, "it has no port: nothing reaches it", "add one, or deploy it anew");
  for (const client::Port& port : ports_)
    // A network without binding to hosts (N/A) says nothing of its ports.
    if (port.status == "DOWN" || port.status == "ERROR" || port.status == "BUILD")
      add(Level::problem, fmt::format("its port {} is {}", port.id.value, port.status),
          "openstack port show " + port.id.value);
}

void Examination::judge_ssh() {
  if (!question_.ask_ssh) return;
  std::optional<Address> address = question_.ssh_address;
  for (const client::Port& port : ports_) {
    if (address) break;
    const auto floating = client::floating_ips::of_port(cloud_.network(stop_), port.id, stop_);
    if (floating)
      address = Address{floating->address, question_.ssh_port};
    else if (const std::string own = client::ports::address(port); !own.empty())
      address = Address{own, question_.ssh_port};
  }
  if (!address) return;
  const Greeting greeting = ssh_greeting(*address, std::chrono::seconds(10), stop_);
  if (greeting.ssh) return add(Level::note, fmt::format("{} answers at {}", greeting.said, address->text()));
  // From inside it may not reach its own floating IP, and whoever runs there needs no SSH.
  const bool inside = question_.here == server_.id;
  add(inside ? Level::note : Level::problem, fmt::format("no SSH at {}: {}", address->text(), greeting.said),
      inside
          ? ""
          : "look at its security group and at its console; if it is reached by another address, give --ssh-address, "
            "or --no-wait-ssh not to ask");
}

void Examination::judge_volumes_attached() {
  const std::size_t attached = client::attachments::list(cloud_.compute(stop_), server_.id, stop_).size();
  if (attached >= usual_slots)
    return add(Level::problem,
               fmt::format("{} volumes are attached to it, and few hypervisors take more than {} on one machine",
                           attached, usual_slots),
               "let migrations end first, or use another conversion host");
  add(Level::note, fmt::format("{} volume{} attached, room for about {} more at the same time", attached,
                               attached == 1 ? " is" : "s are", usual_slots - attached));
}

void Examination::judge_zones() {
  const std::string& zone = server_.availability_zone;
  if (!question_.volume_zone.empty()) {
    client::volumes::check_availability_zone(cloud_.volume(stop_), question_.volume_zone, stop_);
    if (!zone.empty() && zone != question_.volume_zone)
      add(Level::warning,
          fmt::format("it is in the zone {} and the volumes would be in {}: a cloud may refuse to attach them "
                      "(cross_az_attach of Nova)",
                      zone, question_.volume_zone),
          "use a host in the zone of the volumes");
    return;
  }
  if (zone.empty()) return;
  try {
    client::volumes::check_availability_zone(cloud_.volume(stop_), zone, stop_);
    add(Level::note, fmt::format("it and volumes can be in the zone {}", zone));
  } catch (const Error& e) {
    if (e.fault() != Fault::config) throw;
    add(Level::warning,
        fmt::format(
            "it is in the zone {}, and {}. A cloud may refuse to attach volumes of another zone (cross_az_attach "
            "of Nova)",
            zone, e.what()),
        "try it with one volume, and give migrate the right --volume-availability-zone");
  }
}

}  // namespace

std::optional<ServerId> examine_host(client::Cloud& cloud, const HostQuestion& question, std::vector<Finding>& found,
                                     std::stop_token stop) {
  return Examination(cloud, question, found, stop).run();
}

}  // namespace vmferry::target::openstack
