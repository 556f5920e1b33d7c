// The ways to read a disk, each as the product makes it, in one lab: its vCenter, its ESXi host by ssh, its datastore
// as a folder, the stand-in for VDDK, and a proxy in whose guest disks appear.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "source/vmware/hotadd_transport.hpp"
#include "source/vmware/transport.hpp"
#include "source/vmware/vddk_transport.hpp"
#include "support/lab.hpp"
#include "test_paths.hpp"
#include "vsphere/inventory.hpp"

namespace vmferry::source::vmware::test {

// Whose disks are read, and from where.
struct Site {
  const support::Lab& lab;
  vsphere::Session& session;
  model::VmId vm;
  process::Runner& runner;
  log::Log& log;
  std::filesystem::path folder;  // of this test

  http::Trust trust() const {
    http::Trust trust;
    trust.ca_file = lab.get("vcenter.ca");
    return trust;
  }
  std::filesystem::path run() const { return folder / "run"; }
  void script(const std::string& fault) const { lab.control("vcenter", "POST", "/faults", fault); }
};

enum class Login { right, wrong };

// As the lab's call log and its fault scripts name it.
struct LabCall {
  std::string service, method;
};

class Way {
 public:
  explicit Way(const Site& site) : site_(site) {}
  virtual ~Way() = default;
  virtual std::unique_ptr<Transport> transport(Login login) = 0;
  // The machine may run while its disks are read.
  virtual bool of_running_machines() const { return true; }
  // Tells which parts of a disk were never written.
  virtual bool has_map() const { return true; }
  // And does so for a disk of terabytes before anybody loses patience.
  virtual bool maps_quickly() const { return has_map(); }
  // Reads a disk that sits on the redo file of another snapshot.
  virtual bool reads_chains() const { return false; }
  // By what a disk is opened, and a login asked for; where there is such a call.
  virtual LabCall opening() const { return {}; }
  virtual LabCall login() const { return {"vsphere", "Login"}; }

 protected:
  // For what has no login but that of the session.
  void refuse_logins() const {
    site_.script(R"({"service":"vsphere","method":"Login","kind":"fault","fault":"InvalidLogin","count":-1})");
    site_.lab.control("vcenter", "POST", "/sessions/expire");
  }
  const Site& site_;
};

class HttpsWay final : public Way {
 public:
  using Way::Way;
  std::unique_ptr<Transport> transport(Login login) override {
    HttpsOptions options;
    options.endpoint = site_.lab.get("vcenter.endpoint");
    options.datacenter = vsphere::datacenter_of(site_.session, site_.vm, {}).path;
    options.trust = site_.trust();
    options.cookie = [&session = site_.session](bool renew, std::stop_token stop) {
      return session.cookie(renew, std::move(stop));
    };
    options.run_directory = site_.run();
    if (login == Login::wrong) refuse_logins();
    return https_transport(std::move(options), site_.runner, site_.log);
  }
  bool has_map() const override { return false; }
  LabCall opening() const override { return {"folder", "GET"}; }
};

class FileWay final : public Way {
 public:
  using Way::Way;
  std::unique_ptr<Transport> transport(Login) override {
    return file_transport({site_.lab.get("vcenter.datastore_dir"), {}, site_.run()}, site_.runner, site_.log);
  }
};

class SshWay final : public Way {
 public:
  using Way::Way;
  std::unique_ptr<Transport> transport(Login login) override {
    const std::string address = site_.lab.get("vcenter.esxi_ssh.address");
    SshOptions options;
    options.host = address.substr(0, address.rfind(':'));
    options.port = std::stoi(address.substr(address.rfind(':') + 1));
    options.password = Secret(login == Login::right ? site_.lab.secret("vcenter.esxi_ssh.password_file") : "another");
    options.identity = "/nonexistent";
    options.known_hosts = site_.lab.get("vcenter.esxi_ssh.known_hosts");
    options.run_directory = site_.run();
    return ssh_transport(std::move(options), site_.runner, site_.log);
  }
  bool has_map() const override { return false; }
  LabCall opening() const override { return {"ssh", "Connect"}; }
  LabCall login() const override { return opening(); }
};

class VddkWay final : public Way {
 public:
  using Way::Way;
  std::unique_ptr<Transport> transport(Login login) override {
    const std::filesystem::path built = std::filesystem::path(vmferry::test::bin_directory).parent_path();
    VddkOptions options;
    options.vddk = {built / "lib/vmferry/nbdkit/nbdkit-vddk-plugin.so", built / "lib/lab-vddk"};
    options.endpoint = site_.lab.get("vcenter.endpoint");
    options.user = site_.lab.get("vcenter.username");
    options.password = Secret(login == Login::right ? site_.lab.secret("vcenter.password_file") : "another");
    options.trust = site_.trust();
    options.vm = site_.vm.value;
    options.run_directory = site_.run();
    return vddk_transport(std::move(options), site_.runner, site_.log, {});
  }
  bool reads_chains() const override { return true; }
  LabCall opening() const override { return {"vddk", "Open"}; }
  LabCall login() const override { return {"vddk", "Connect"}; }
};

class HotaddWay final : public Way {
 public:
  using Way::Way;
  std::unique_ptr<Transport> transport(Login login) override {
    HotaddOptions options;
    options.vm = site_.vm;
    options.root = site_.lab.get("vcenter.proxies.0.root");
    options.host = "here";
    options.run_directory = site_.run();
    if (login == Login::wrong) refuse_logins();
    return hotadd_transport(std::move(options), site_.session, site_.runner, site_.log);
  }
  bool has_map() const override { return false; }  // a block device has none
  bool reads_chains() const override { return true; }
  LabCall opening() const override { return {"vsphere", "ReconfigVM_Task"}; }
};

class ExportWay final : public Way {
 public:
  using Way::Way;
  std::unique_ptr<Transport> transport(Login login) override {
    if (login == Login::wrong) refuse_logins();
    return export_transport({&site_.session, site_.vm, site_.lab.get("vcenter.endpoint"), site_.trust(),
                             site_.folder / "spool", site_.run()},
                            site_.runner, site_.log);
  }
  bool of_running_machines() const override { return false; }
  bool maps_quickly() const override { return false; }  // qemu looks each of its 33 million grains up
  bool reads_chains() const override { return true; }
  LabCall opening() const override { return {"vsphere", "ExportSnapshot"}; }
};

inline constexpr const char* all_ways[] = {"https", "file", "ssh", "vddk", "hotadd", "export"};

inline std::unique_ptr<Way> way_of(const std::string& name, const Site& site) {
  if (name == "https") return std::make_unique<HttpsWay>(site);
  if (name == "file") return std::make_unique<FileWay>(site);
  if (name == "ssh") return std::make_unique<SshWay>(site);
  if (name == "vddk") return std::make_unique<VddkWay>(site);
  if (name == "hotadd") return std::make_unique<HotaddWay>(site);
  return std::make_unique<ExportWay>(site);
}

}  // namespace vmferry::source::vmware::test
