// A migration from a fake machine to a fake cloud, with a journal in memory, that can die at each call and each fact.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "copy/digests.hpp"
#include "fake_converter.hpp"
#include "fake_machine.hpp"
#include "job/itinerary.hpp"
#include "support/fake_clock.hpp"
#include "support/fake_cloud.hpp"

namespace vmferry::job {

// What kill -9 is to a process: nothing on the way out may clean up, so it is no Error and no Cancelled.
struct Died {};

class Silent final : public Observer {
 public:
  void step_started(std::string_view) noexcept override {}
  void step_finished(std::string_view, const std::exception*) noexcept override {}
  void copied(model::DiskKey, std::string_view, std::uint64_t, std::uint64_t) noexcept override {}
  void disk_finished(model::DiskKey, std::string_view, bool was_full, std::uint64_t bytes_read,
                     std::uint64_t bytes_written, double) noexcept override {
    std::scoped_lock lock(mutex_);
    (was_full ? fulls : deltas)++;
    read += bytes_read;
    written += bytes_written;
  }
  void said(std::string_view what) noexcept override {
    if (what.find("going on from") != std::string_view::npos) ++said_going_on;
  }
  std::atomic<int> said_going_on{0};
  void warned(std::string_view) noexcept override {}
  int fulls = 0, deltas = 0;
  std::uint64_t read = 0, written = 0;

 private:
  std::mutex mutex_;
};

class MemoryJournal final : public Journal {
 public:
  std::function<void(const std::string& call, bool acted)> around = [](const std::string&, bool) {};
  std::function<void(const Body& body)> refuse = [](const Body&) {};  // by throwing
  void append(const Body& body) override {
    refuse(body);
    around(fmt::format("fact {}", name(body)), false);
    {
      std::scoped_lock lock(mutex_);
      facts_.push_back({at_++, decode(encode(body))});
    }
    around(fmt::format("fact {}", name(body)), true);
  }
  std::vector<Fact> facts() const override {
    std::scoped_lock lock(mutex_);
    return facts_;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<Fact> facts_;
  std::int64_t at_ = 1000;
};

// Where two disks differ, in words; empty when they are the same.
inline std::string difference(const std::string& a, const std::string& b) {
  if (a.size() != b.size()) return fmt::format("{} bytes and {}", a.size(), b.size());
  std::size_t first = a.size(), last = 0, count = 0;
  for (std::size_t i = 0; i < a.size(); ++i)
    if (a[i] != b[i]) first = std::min(first, i), last = i, ++count;
  return count == 0 ? "" : fmt::format("{} bytes from {} to {}", count, first, last);
}

struct World {
  FakeMachine machine;
  support::FakeCloud cloud;
  FakeConverter converter;
  support::FakeClock clock;
  log::Log log;
  std::unique_ptr<MemoryJournal> journal;
  Silent observer;
  JobId job{"job-1"};
  support::TemporaryDirectory digests;
  std::mutex mutex;
  std::vector<std::string> events;
  int dies_at = -1;  // the event after which everything stops
  std::string network = "net";
  bool convert = true;
  bool force_power_off = false;
  bool verified = false;
  bool checkpoints = false;
  std::optional<double> audit;
  std::uint32_t request = 1024 * 1024;

  World() {
    const auto hook = [this](const std::string& call, bool acted) {
      std::scoped_lock lock(mutex);
      events.push_back(fmt::format("{} {}", acted ? "after" : "before", call));
      if (static_cast<int>(events.size()) - 1 == dies_at) throw Died();
    };
    journal = std::make_unique<MemoryJournal>();
    begin(job);
    machine.around = cloud.around = converter.around = journal->around = hook;
  }
  void begin(const JobId& id) {
    journal->append(JobCreated{id, "vcenter x", model::VmId{"vm-1"}, "web01", "/DC0/vm/web01", cloud.describe(), ""});
  }
  // What `--again` does: a new job, which knows nothing but what is written on the volumes.
  void begin_again(const JobId& id) {
    journal = std::make_unique<MemoryJournal>();
    job = id;
    begin(id);
  }

  // Somebody else's journal, which knows nothing of this one, and this one nothing of what happens meanwhile.
  void on_another_host(const std::function<void()>& act) {
    std::unique_ptr<MemoryJournal> own = std::move(journal);
    const JobId own_job = job;
    begin_again(JobId{"job-of-another-host"});
    act();
    journal = std::move(own);
    job = own_job;
  }

  Parts parts() {
    const std::filesystem::path folder = digests.path() / job.value;
    std::filesystem::create_directory(folder);
    return {machine, cloud, converter, clock, log, folder};
  }
  void run(bool cut) {
    const std::vector<Fact> facts = journal->facts();
    const State state = fold(facts);
    CutoverOptions options;
    options.networks = {{"00:50:56:00:00:01", network, "subnet", {}, {}, {}}};
    options.flavor = "small";
    options.convert = convert;
    options.force_power_off = force_power_off;
    CopyOptions copy;
    copy.tuning.connections = 1;
    copy.verify = verified;
    if (audit) copy.audit = *audit;
    // A checkpoint whenever the last one is done. How many there are depends on the time that things take.
    if (checkpoints) copy.tuning.checkpoint_after = std::chrono::milliseconds(0);
    const Itinerary itinerary = cut ? cutover(parts(), state, copy, options) : warm(parts(), state, copy);
    drive(itinerary, *journal, observer, {});
  }
  // The command again and again until it does not die.
  void insist(bool cut) {
    for (int tries = 0; tries < 3; ++tries) {
      try {
        run(cut);
        return;
      } catch (const Died&) {
      }
    }
    FAIL() << "died more than once";
  }

  VolumeId volume(model::DiskKey key) {
    const std::vector<Fact> facts = journal->facts();
    return fold(facts).disks.at(key).volume;
  }
  // What the volumes hold after a cutover with a conversion.
  std::map<model::DiskKey, std::string> converted() {
    auto all = resting();
    for (auto& [key, bytes] : all) bytes = FakeConverter::converted(bytes);
    return all;
  }
  void expect_equal(const std::map<model::DiskKey, std::string>& wanted) {
    for (const auto& [key, bytes] : wanted) {
      EXPECT_EQ(difference(cloud.bytes(volume(key), 0, bytes.size()), bytes), "") << "disk " << key.value;
      expect_true_digests(key, bytes);
    }
  }
  void expect_equal_to_last_snapshot() {
    const std::vector<Fact> facts = journal->facts();
    const SnapshotId snapshot = fold(facts).cycles.back().snapshot->snapshot;
    std::map<model::DiskKey, std::string> frozen;
    for (const model::DiskKey key : machine.keys()) frozen[key] = machine.frozen(snapshot, key);
    expect_equal(frozen);
  }
  // What is kept of the volume is what it holds.
  void expect_true_digests(model::DiskKey key, const std::string& bytes) {
    const copy::Digests kept(parts().digests / fmt::format("{}.digests", key.value), volume(key).value, bytes.size());
    EXPECT_TRUE(kept.settled()) << "disk " << key.value;
    for (std::size_t at = 0; at < bytes.size(); at += copy::Digests::chunk)
      EXPECT_EQ(kept.read(at, 1)[0], copy::digest_of(std::as_bytes(std::span(bytes).subspan(
                                         at, std::min<std::size_t>(copy::Digests::chunk, bytes.size() - at)))))
          << "disk " << key.value << " at " << at;
  }
  void verify(bool repair) {
    const std::vector<Fact> facts = journal->facts();
    drive(job::verify(parts(), fold(facts), {}, {1, repair, false}), *journal, observer, {});
  }
  std::map<model::DiskKey, std::string> resting() {
    std::map<model::DiskKey, std::string> all;
    for (const model::DiskKey key : machine.keys()) all[key] = machine.bytes(key);
    return all;
  }
  void expect_nothing_left() {
    EXPECT_EQ(machine.snapshots(), 0u);
    for (const auto& [id, v] : cloud.volumes()) EXPECT_NE(v.attached_to, "this host") << id.value;
    EXPECT_EQ(cloud.volumes().size(), 2u);
  }
};

}  // namespace vmferry::job
