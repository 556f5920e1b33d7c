// Three clouds for one contract: the fake of the job's tests, a folder, and OpenStack's client on the lab.
// Each says how to open it again (as another run would), what its networks are called, and how somebody else
// takes a volume away.
#pragma once

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mount.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <string>

#include "base/clock.hpp"
#include "base/fd.hpp"
#include "http/http.hpp"
#include "openstack/cloud.hpp"
#include "openstack/cloud_config.hpp"
#include "openstack/volumes.hpp"
#include "support/fake_cloud.hpp"
#include "support/lab.hpp"
#include "support/openstack_lab.hpp"
#include "target/local/local_cloud.hpp"
#include "target/openstack/openstack_cloud.hpp"
#include "test_paths.hpp"

namespace vmferry::target {

// A machine, disks and a job that no other test of this run has.
struct Scene {
  JobId job{random_uuid()};
  JobId other_job{random_uuid()};
  model::Vm vm;

  Scene() {
    // A lab that is lent remembers what earlier programs made.
    static std::atomic<int> next{static_cast<int>(std::random_device()() % 1'000'000) * 100};
    const int number = next++;
    vm.id = model::VmId{fmt::format("vm-{}", number)};
    vm.name = fmt::format("Machine {}", number);
    vm.uuid = random_uuid();
    vm.vcpus = 1;
    vm.memory = 256ull << 20;
    vm.nics.push_back({4000, "Network adapter 1", "VM Network", mac(number), "VM Network", "vmxnet3", true});
  }
  // No MAC like it was used in this lab before.
  static std::string mac(int number) {
    return fmt::format("00:50:56:{:02x}:{:02x}:{:02x}", number >> 16 & 0x3f, number >> 8 & 0xff, number & 0xff);
  }
  static std::string other_mac() { return mac(static_cast<int>(std::random_device()())); }
  Tag tag(int disk = 0) const {
    return {job, vm.id, vm.name, model::DiskKey{2000 + disk}, fmt::format("machine-{}-{}", vm.id.value, 2000 + disk)};
  }
  VolumeWish wish(std::uint64_t bytes, int disk = 0) const {
    VolumeWish wish;
    wish.tag = tag(disk);
    wish.bytes = bytes;
    wish.boot = disk == 0;
    if (wish.boot) wish.image_properties = {{"hw_firmware_type", "uefi"}, {"hw_machine_type", "q35"}};
    return wish;
  }
};

class FakeWorld {
 public:
  static std::string unavailable() { return ""; }
  Cloud& cloud() { return cloud_; }
  Cloud& reopened() { return cloud_; }
  NetworkChoice choice(const std::string& mac) { return {mac, "net", "", {}, {}, {}}; }
  std::string flavor() { return "small"; }
  std::string state() { return "ACTIVE"; }
  void take_away(const VolumeId& volume) {
    cloud_.change(volume, [](support::FakeCloud::FakeVolume& v) { v.attached_to = "somebody else"; });
  }
  std::string taker() { return "somebody else"; }
  void give_back(const VolumeId& volume) {
    cloud_.change(volume, [](support::FakeCloud::FakeVolume& v) { v.attached_to.clear(); });
  }

 private:
  support::FakeCloud cloud_;
};

class LocalWorld {
 public:
  static std::string unavailable() { return ""; }
  Cloud& cloud() {
    if (!cloud_) cloud_ = open();
    return *cloud_;
  }
  Cloud& reopened() {
    cloud_ = open();
    return *cloud_;
  }
  NetworkChoice choice(const std::string& mac) { return {mac, "default", "", {}, {}, {}}; }
  std::string flavor() { return ""; }
  std::string state() { return "defined"; }
  // A running machine locks its images like this.
  void take_away(const VolumeId& volume) {
    lock_ = Fd(::open((root() / (volume.value + ".img")).c_str(), O_RDWR | O_CLOEXEC));
    struct flock lock {};
    lock.l_type = F_RDLCK;
    lock.l_whence = SEEK_SET;
    lock.l_start = 100;
    lock.l_len = 1;
    if (::fcntl(lock_.get(), F_OFD_SETLK, &lock) != 0) throw std::runtime_error("cannot lock");
  }
  std::string taker() { return "locked"; }
  void give_back(const VolumeId&) { lock_ = Fd(); }
  std::filesystem::path root() const { return directory_.path() / "machines"; }

 private:
  std::unique_ptr<Cloud> open() { return local::local_cloud({root(), "virtio", "kvm"}, clock_, log_); }
  support::TemporaryDirectory directory_;
  SystemClock clock_;
  log::Log log_;
  std::unique_ptr<Cloud> cloud_;
  Fd lock_;
};

// One lab for all tests of this program: bringing it up costs seconds.
class OpenstackWorld {
 public:
  static std::string unavailable() {
    if (std::filesystem::exists(std::string(test::bin_directory) + "/vmferry-lab")) return "";
    return "vmferry-lab is not built (VMFERRY_LAB=OFF)";
  }
  static support::Lab& lab() {
    static support::Lab lab({"--writer-rate", "0", "--disks", "16M,16M"});
    // What these tests make stays until the lab ends: real services begin with a project's usual limits.
    static const std::string room = lab.control("openstack", "POST", "/quota", R"({"volumes":500,"gigabytes":2000})");
    return lab;
  }
  std::unique_ptr<::vmferry::openstack::Cloud> client() { return support::open_cloud(lab(), clock_, log_); }
  // The same project's administrator.
  std::unique_ptr<::vmferry::openstack::Cloud> administrator() {
    auto who = support::openstack_environment(lab());
    if (lab().real_openstack())
      who["OS_CLOUD"] = lab().get("openstack.admin_cloud");
    else
      who["OS_USERNAME"] = "admin";
    return support::open_cloud(::vmferry::openstack::load(who), clock_, log_);
  }
  virtual openstack::Options options() {
    openstack::Options options;
    options.volume_type = lab().get("openstack.volume_type");
    options.instance_sources.metadata_url = lab().get("openstack.metadata_url");
    options.device_directory = lab().get("openstack.by_id");
    options.identity = file_identity(lab().get("openstack.identity_dir"));
    options.device_patience = std::chrono::seconds(60);
    options.host = "conversion-host";
    return options;
  }
  std::unique_ptr<Cloud> open(openstack::Options options) {
    return openstack::openstack_cloud(std::move(options), client(), http::curl({}, log_), clock_, log_);
  }
  Cloud& cloud() {
    if (!cloud_) cloud_ = open(options());
    return *cloud_;
  }
  Cloud& reopened() {
    cloud_ = open(options());
    return *cloud_;
  }
  NetworkChoice choice(const std::string& mac) {
    return {mac, lab().get("openstack.network_id"), lab().get("openstack.subnet_id"), {}, {}, {}};
  }
  std::string flavor() { return lab().get("openstack.flavor_id"); }
  std::string state() { return "ACTIVE"; }
  // A server of somebody else boots from it.
  void take_away(const VolumeId& volume) {
    LaunchWish wish;
    wish.job = JobId{random_uuid()};
    wish.vm.name = "taker";
    wish.volumes = {volume};
    wish.flavor = flavor();
    taker_ = cloud().launch(wish, {}).id;
  }
  std::string taker() { return taker_.value; }
  void give_back(const VolumeId&);
  virtual ~OpenstackWorld() = default;
  nlohmann::json state_of_lab() { return nlohmann::json::parse(lab().control("openstack", "GET", "/state")); }
  log::Log& log() { return log_; }

 private:
  SystemClock clock_;
  log::Log log_;
  std::unique_ptr<Cloud> cloud_;
  ServerId taker_;
};

// The same OpenStack, but this host connects its volumes itself, as if it were no instance: by the real os-brick, and
// by the lab's mount, since there is no NFS server.
class BrickWorld : public OpenstackWorld {
 public:
  static std::string unavailable() {
    if (::geteuid() != 0) return "only root can mount";
    if (!std::filesystem::exists("/usr/lib/python3/dist-packages/os_brick")) return "python3-os-brick is not installed";
    return OpenstackWorld::unavailable();
  }
  BrickWorld() {
    std::filesystem::create_directory(mounts());
    static const bool on_path = [] {
      const char* path = std::getenv("PATH");
      return ::setenv("PATH", (lab().get("openstack.mount_dir") + ":" + (path ? path : "")).c_str(), 1) == 0;
    }();
    (void)on_path;
  }
  ~BrickWorld() override {
    // Some tests leave their volumes attached, which only this host can end in good order.
    const nlohmann::json lab = state_of_lab();
    for (const nlohmann::json& volume : lab["volumes"])
      for (const nlohmann::json& attachment : volume["attachments"])
        if (attachment["server_id"] == "") cloud().detach(VolumeId{volume["id"]}, {});
    std::error_code ignored;
    for (const auto& volume : std::filesystem::directory_iterator(mounts(), ignored)) {
      for (const auto& point : std::filesystem::directory_iterator(volume.path(), ignored)) {
        ::umount2(point.path().c_str(), 0);
        ::rmdir(point.path().c_str());
      }
      ::rmdir(volume.path().c_str());
    }
    ::rmdir(mounts().c_str());
  }
  openstack::Options options() override { return options("ferry1/0badcafe"); }
  openstack::Options options(const std::string& holder) {
    openstack::Options options = OpenstackWorld::options();
    openstack::BrickAttaching attaching;
    attaching.brick.host = "ferry1";
    attaching.brick.mounts = mounts();
    attaching.brick.locks = directory_.path() / "locks";
    attaching.holder = holder;
    attaching.patience = std::chrono::seconds(120);
    options.brick.emplace(openstack::BrickMode{std::move(attaching), &runner_});
    options.instance_sources.metadata_url = "http://127.0.0.1:1/";  // nobody asks
    return options;
  }
  // Not in a folder that is removed with all that is in it: what is mounted there are the lab's volumes.
  std::filesystem::path mounts() const { return fmt::format("/run/vmferry-test-{}", ::getpid()); }
  process::Runner& runner() { return runner_; }

 private:
  support::TemporaryDirectory directory_;
  process::SystemRunner runner_;
};

}  // namespace vmferry::target
