// What every way to read a disk must do, once for each of them, on the same machine of the lab: the table at the end
// says which way holds to what. What only one of them does is in its own tests.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <condition_variable>
#include <nlohmann/json.hpp>
#include <thread>

#include "source/vmware/auto_transport.hpp"
#include "source/vmware/machine.hpp"
#include "support/vsphere_lab.hpp"
#include "transport_fixture.hpp"
#include "ways_of_lab.hpp"

namespace vmferry::source::vmware::test {

namespace {

constexpr std::uint64_t chunk = 64 * 1024;

// A way that can be shut for good in the middle of a copy.
struct Gate {
  std::atomic<bool> shut{false};
};
class GatedSource final : public copy::Source {
 public:
  GatedSource(std::unique_ptr<copy::Source> inner, const Gate& gate) : inner_(std::move(inner)), gate_(gate) {}
  std::uint64_t bytes() const override { return inner_->bytes(); }
  void prepare(copy::Progress& progress, std::stop_token stop) override { inner_->prepare(progress, std::move(stop)); }
  bool costly() const override { return inner_->costly(); }
  std::unique_ptr<nbd::Handle> connect(std::stop_token stop) override {
    refuse_when_shut();
    auto handle = inner_->connect(std::move(stop));
    refuse_when_shut();  // or it would be one to a server that was started again meanwhile
    return handle;
  }
  void failed(ByteRange range) noexcept override { inner_->failed(range); }
  void check(std::stop_token stop) override { inner_->check(std::move(stop)); }

 private:
  void refuse_when_shut() const {
    if (gate_.shut) throw Error(Fault::unavailable, "this way is shut");
  }
  std::unique_ptr<copy::Source> inner_;
  const Gate& gate_;
};
class Gated final : public Transport {
 public:
  Gated(std::unique_ptr<Transport> inner, const Gate& gate) : inner_(std::move(inner)), gate_(gate) {}
  std::string name() const override { return inner_->name(); }
  bool counted() const override { return inner_->counted(); }
  bool quick() const override { return true; }  // the first choice, whichever it is
  std::optional<std::string> refuses(const FrozenDisk& disk) const override { return inner_->refuses(disk); }
  std::unique_ptr<copy::Source> serve(const Point& point, const FrozenDisk& disk, std::stop_token stop) override {
    return std::make_unique<GatedSource>(inner_->serve(point, disk, std::move(stop)), gate_);
  }
  void let_go(std::stop_token stop) override { inner_->let_go(std::move(stop)); }

 private:
  std::unique_ptr<Transport> inner_;
  const Gate& gate_;
};

class Ways : public TransportTest {
 protected:
  // Reads by one way, or by one and then, when it is shut, by another.
  explicit Ways(std::string name, std::string next = "") : name_(std::move(name)), next_name_(std::move(next)) {}

  void SetUp() override {
    lab_ = &support::VsphereLabs::get("ways");
    control("DELETE", "/faults");
    clear();
    kept_log_ = std::make_unique<log::Log>(folder_.path() / "log", std::make_shared<log::Redactor>(), log::Level::debug,
                                           false, log::Level::error);
    http::CurlOptions curl;
    curl.trust.who = "vCenter";
    curl.trust.ca_file = lab_->get("vcenter.ca");
    http_ = http::curl(curl, *kept_log_);
    session_ = std::make_unique<vsphere::Session>(
        *http_,
        vsphere::SessionOptions{lab_->get("vcenter.endpoint"), lab_->get("vcenter.username"),
                                Secret(lab_->secret("vcenter.password_file")), std::chrono::seconds(0)},
        clock_, *kept_log_, std::stop_token());
    vm_ = vsphere::find(*session_, lab_->get("vcenter.vm_path"), {});
    site_.emplace(Site{*lab_, *session_, vm_, runner_, *kept_log_, folder_.path()});
    way_ = way_of(name_, *site_);
    if (!next_name_.empty()) next_ = way_of(next_name_, *site_);
    const bool runs = way_->of_running_machines() && (!next_ || next_->of_running_machines());
    control("POST", "/vms/web01/power", fmt::format(R"({{"state":"{}"}})", runs ? "on" : "off"));
  }
  void TearDown() override {
    if (lab_ == nullptr) return;  // it did not start
    control("DELETE", "/faults");
    if (machine_) transport_->let_go({});
    machine_.reset();
    // Nothing of the machine is held any more, whatever has happened to it.
    for (const auto& disk : disks_of("proxy01")) EXPECT_FALSE(disk["attached"]) << disk;
    EXPECT_EQ(server_pid(folder_.path()), 0);
    clear();
  }

  std::string control(const std::string& method, const std::string& path, const std::string& json = "") const {
    return lab_->control("vcenter", method, path, json);
  }
  nlohmann::json view(const std::string& vm) const { return nlohmann::json::parse(control("GET", "/vms/" + vm)); }
  nlohmann::json disks_of(const std::string& vm) const { return view(vm)["disks"]; }
  // The machine has one disk and no snapshot, and nothing is attached to the proxy.
  void clear() const {
    for (const auto& disk : disks_of("proxy01"))
      if (disk["attached"]) control("DELETE", "/vms/proxy01/disks/" + disk["key"].dump());
    const auto found = view("web01");
    for (const auto& snapshot : found["snapshots"])
      control("DELETE", "/vms/web01/snapshots/" + snapshot["id"].get<std::string>());
    for (const auto& disk : found["disks"])
      if (disk["key"] != 2000) control("DELETE", "/vms/web01/disks/" + disk["key"].dump());
  }
  int calls(const LabCall& call) const {
    int found = 0;
    for (const auto& one : nlohmann::json::parse(control("GET", "/calls")))
      if (one["service"] == call.service && one["method"] == call.method) ++found;
    return found;
  }

  // Gives the machine another disk; `fill` writes into its flat file.
  model::DiskKey add_disk(std::uint64_t bytes, const std::function<void(const FileTarget&)>& fill) {
    const auto added =
        nlohmann::json::parse(control("POST", "/vms/web01/disks", fmt::format(R"({{"bytes":{}}})", bytes)));
    const std::int32_t key = added["key"];
    for (const auto& disk : disks_of("web01")) {
      if (disk["key"] != key) continue;
      std::string file = disk["file"];
      file = file.substr(file.find("] ") + 2);
      file.insert(file.rfind(".vmdk"), "-flat");
      fill(FileTarget(std::filesystem::path(lab_->get("vcenter.datastore_dir")) / file, bytes));
    }
    return model::DiskKey{key};
  }
  model::DiskKey add_disk(const std::vector<char>& content) {
    return add_disk(content.size(), [&](const FileTarget& flat) { put(flat, content, 0, content.size()); });
  }
  static void put(const FileTarget& to, const std::vector<char>& bytes, std::uint64_t offset, std::uint64_t length) {
    ASSERT_EQ(pwrite(to.fd(), bytes.data(), length, static_cast<off_t>(offset)), static_cast<ssize_t>(length));
  }
  void guest_writes(model::DiskKey disk, std::uint64_t offset, std::uint64_t bytes, char value) const {
    control("POST", "/vms/web01/write",
            fmt::format(R"({{"disk":{},"offset":{},"bytes":{},"value":{}}})", disk.value, offset, bytes, int{value}));
  }

  std::unique_ptr<Transport> both() {
    AutoOptions options;
    options.candidates.push_back({name_, std::make_unique<Gated>(way_->transport(Login::right), gate_), ""});
    options.candidates.push_back({next_name_, next_->transport(Login::right), ""});
    options.measure = false;
    return auto_transport(std::move(options), clock_, *kept_log_);
  }
  void freeze() {
    auto transport = next_ ? both() : way_->transport(Login::right);
    transport_ = transport.get();
    machine_ = vmware::machine(*session_, {vm_, ""}, std::move(transport), *kept_log_, {});
    frozen_ = machine_->freeze({JobId{"0f3c2a1e-1111-4222-8333-444455556666"}, 1}, Quiesce::never, {});
    control("DELETE", "/calls");
  }
  std::unique_ptr<copy::Source> served(model::DiskKey disk) { return machine_->serve(frozen_, disk, {}); }
  std::unique_ptr<nbd::Handle> connected(copy::Source& source) {
    source.prepare(silent_, {});
    return source.connect({});
  }

  static std::vector<char> read_at(nbd::Handle& handle, std::uint64_t offset, std::size_t bytes) {
    std::vector<char> buffer(bytes);
    std::optional<int> answer;
    handle.read(std::as_writable_bytes(std::span(buffer)), offset, [&](int error) { answer = error; });
    while (!answer) handle.poll(std::chrono::seconds(1));
    EXPECT_EQ(*answer, 0) << offset;
    return buffer;
  }
  static void expect_same(nbd::Handle& handle, const std::vector<char>& content, std::uint64_t at,
                          std::uint64_t length) {
    const auto begin = content.begin() + static_cast<std::ptrdiff_t>(at);
    EXPECT_TRUE(std::equal(begin, begin + static_cast<std::ptrdiff_t>(length), read_at(handle, at, length).begin()))
        << length << " bytes at " << at;
  }
  // What the server says of a stretch, joined.
  static std::vector<nbd::Extent> map(nbd::Handle& handle, ByteRange range) {
    std::vector<nbd::Extent> all;
    while (range.length > 0) {
      bool answered = false;
      handle.extents(range, [&](int error, const std::vector<nbd::Extent>& extents) {
        answered = true;
        ASSERT_EQ(error, 0);
        ASSERT_FALSE(extents.empty());
        all.insert(all.end(), extents.begin(), extents.end());
        const std::uint64_t end = extents.back().range.end();
        range = {end, range.end() - end};
      });
      while (!answered) handle.poll(std::chrono::seconds(1));
    }
    return all;
  }

  // All of it, onto a target that is full of other bytes.
  std::vector<char> whole(copy::Source& source, copy::Work& work,
                          const std::function<void(const RangeSet&)>& checkpoint = nullptr) {
    FileTarget target(folder_.path() / "target", source.bytes(), false);
    put(target, std::vector<char>(source.bytes(), 'x'), 0, source.bytes());
    copy::Tuning tuning;
    tuning.whole_disk = true;
    tuning.request = 256 * 1024;
    tuning.requests_per_connection = 2;
    tuning.checkpoint = checkpoint;
    tuning.checkpoint_bytes = 1;
    copy::run(source, target, work, tuning, silent_, clock_, *kept_log_, {});
    return target.content();
  }
  std::vector<char> whole(copy::Source& source) {
    const ByteRange all{0, source.bytes()};
    return whole(source, *copy::work(RangeSet(std::span(&all, 1))));
  }
  std::vector<char> whole(copy::Source& source, const std::function<void()>& in_the_middle) {
    TwoHalves work(source.bytes(), in_the_middle);
    std::vector<char> content = whole(source, work, [&](const RangeSet& ranges) { work.came(ranges); });
    EXPECT_TRUE(work.happened());
    return content;
  }
  // One sentence that does not send anybody to try again.
  Error final_error(const std::function<void()>& act) {
    const Error error = thrown(act);
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
    EXPECT_NE(error.fault(), Fault::unavailable) << error.what();
    EXPECT_NE(error.fault(), Fault::timeout) << error.what();
    return error;
  }
  static void expect_words(const Error& error, const std::string& words) {
    EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
  }

 public:
  void reads_anywhere();
  void odd_sizes_and_tails();
  void never_calls_data_zero();
  void beyond_two_tebibytes();
  void above_another_snapshot();
  void session_expires_in_the_middle();
  void snapshot_removed_in_the_middle();
  void server_killed_in_mid_read();
  void waits_for_a_slow_open();
  void wrong_credentials();
  void secret_is_nowhere();
  void disk_is_gone();
  void another_disks_file();
  void goes_on_by_the_next();

 protected:
  const std::string name_, next_name_;
  support::Lab* lab_ = nullptr;
  SystemClock clock_;
  Silent silent_;
  std::unique_ptr<log::Log> kept_log_;
  std::unique_ptr<http::Transport> http_;
  std::unique_ptr<vsphere::Session> session_;
  model::VmId vm_;
  std::optional<Site> site_;
  std::unique_ptr<Way> way_, next_;
  Gate gate_;
  std::unique_ptr<Machine> machine_;
  Transport* transport_ = nullptr;  // the machine's
  Point frozen_;
};

// ---- the points ----

void Ways::reads_anywhere() {
  const std::vector<char> content = random_content(capacity);
  const model::DiskKey disk = add_disk(content);
  freeze();
  EXPECT_EQ(transport_->name(), name_);
  const auto source = served(disk);
  EXPECT_EQ(source->bytes(), capacity);
  const auto handle = connected(*source);
  std::mt19937_64 random(11);
  for (int i = 0; i < 12; ++i) {
    const std::uint64_t at = random() % (capacity / 512) * 512;
    expect_same(*handle, content, at, std::min(capacity - at, (1 + random() % 4000) * 512));
  }
  const auto second = connected(*source);
  expect_same(*second, content, 0, 512);
  EXPECT_TRUE(whole(*source) == content);
}

void Ways::odd_sizes_and_tails() {
  std::vector<std::pair<model::DiskKey, std::vector<char>>> disks;
  for (const std::uint64_t bytes : {std::uint64_t{512}, chunk + 512, 3 * chunk - 512}) {
    std::vector<char> content = random_content(bytes);
    disks.emplace_back(add_disk(content), content);
  }
  freeze();
  for (const auto& [disk, content] : disks) {
    const auto source = served(disk);
    ASSERT_EQ(source->bytes(), content.size());
    expect_same(*connected(*source), content, content.size() - 512, 512);
    EXPECT_TRUE(whole(*source) == content) << content.size();
  }
}

void Ways::never_calls_data_zero() {
  std::vector<char> content(capacity);
  const std::vector<char> data = random_content(100'000);
  const model::DiskKey disk = add_disk(capacity, [&](const FileTarget& flat) {
    for (const std::uint64_t at : {std::uint64_t{0}, std::uint64_t{4'000'000}, capacity - 700}) {
      const std::uint64_t length = std::min<std::uint64_t>(data.size(), capacity - at);
      put(flat, data, at, length);
      std::copy_n(data.begin(), length, content.begin() + static_cast<std::ptrdiff_t>(at));
    }
  });
  freeze();
  const auto source = served(disk);
  const auto handle = connected(*source);
  ASSERT_TRUE(handle->can_extents() || !way_->has_map());
  std::uint64_t zero = 0;
  for (const nbd::Extent& extent : handle->can_extents() ? map(*handle, {0, capacity}) : std::vector<nbd::Extent>()) {
    if (!extent.zero) continue;
    zero += extent.range.length;
    const auto begin = content.begin() + static_cast<std::ptrdiff_t>(extent.range.offset);
    EXPECT_TRUE(
        std::all_of(begin, begin + static_cast<std::ptrdiff_t>(extent.range.length), [](char c) { return c == 0; }))
        << extent.range.length << " bytes at " << extent.range.offset;
  }
  EXPECT_TRUE(zero > 0 || !way_->has_map());
  EXPECT_TRUE(whole(*source) == content);
}

void Ways::beyond_two_tebibytes() {
  constexpr std::uint64_t limit = 2ULL << 40, bytes = limit + 5 * chunk + 3 * 512;
  const std::vector<char> data = random_content(2 * chunk);
  const std::vector<ByteRange> written{{0, chunk}, {limit - chunk, 2 * chunk}, {bytes - 1024, 1024}};
  const model::DiskKey disk = add_disk(bytes, [&](const FileTarget& flat) {
    for (const ByteRange& range : written) put(flat, data, range.offset, range.length);
  });
  freeze();
  const auto source = served(disk);
  {
    const auto handle = connected(*source);
    ASSERT_EQ(handle->bytes(), bytes);
    for (const ByteRange& range : handle->can_extents() ? written : std::vector<ByteRange>())
      for (const nbd::Extent& extent : map(*handle, range)) EXPECT_FALSE(extent.zero) << extent.range.offset;
  }
  // Where nothing is known of empty parts, the whole would be two tebibytes to read.
  FileTarget target(folder_.path() / "target", bytes);
  copy::Tuning tuning;
  tuning.whole_disk = way_->maps_quickly();
  const ByteRange all{0, bytes};
  const auto work = copy::work(way_->maps_quickly() ? RangeSet(std::span(&all, 1)) : RangeSet(written));
  EXPECT_LT(copy::run(*source, target, *work, tuning, silent_, clock_, *kept_log_, {}).read, 1U << 20);
  for (const ByteRange& range : written) {
    std::vector<char> got(range.length);
    ASSERT_EQ(pread(target.fd(), got.data(), got.size(), static_cast<off_t>(range.offset)),
              static_cast<ssize_t>(got.size()));
    EXPECT_TRUE(std::equal(got.begin(), got.end(), data.begin())) << range.offset;
  }
}

// The bytes of the whole chain, or a word about what to do.
void Ways::above_another_snapshot() {
  std::vector<char> content = random_content(capacity);
  const model::DiskKey key = add_disk(content);
  control("POST", "/vms/web01/snapshots", R"({"name":"of somebody"})");
  guest_writes(key, 4096, 5 * chunk, 7);
  std::fill_n(content.begin() + 4096, 5 * chunk, 7);
  freeze();
  const FrozenDisk& disk = *frozen_.find(key);
  ASSERT_TRUE(disk.has_parent);
  ASSERT_NE(transport_->refuses(disk).has_value(), way_->reads_chains());
  if (way_->reads_chains()) {
    EXPECT_TRUE(whole(*served(key)) == content);
  } else {
    EXPECT_NE(transport_->refuses(disk)->find("consolidate"), std::string::npos) << *transport_->refuses(disk);
    EXPECT_EQ(thrown([&] { served(key); }).fault(), Fault::unsupported);
  }
}

void Ways::session_expires_in_the_middle() {
  const std::vector<char> content = random_content(capacity);
  const model::DiskKey disk = add_disk(content);
  freeze();
  // An export is read before it is copied: in the middle of that.
  site_->script(R"({"service":"vsphere","method":"HttpNfcLeaseProgress","kind":"expire"})");
  const auto source = served(disk);
  EXPECT_TRUE(whole(*source, [&] { control("POST", "/sessions/expire"); }) == content);
}

// What the files hold after that is of another moment, and whoever reads it may not say that he is done.
void Ways::snapshot_removed_in_the_middle() {
  const std::vector<char> content = random_content(capacity);
  const model::DiskKey disk = add_disk(content);
  freeze();
  guest_writes(disk, 0, capacity, 7);
  const auto source = served(disk);
  const Error error = final_error([&] {
    whole(*source, [&] {
      try {
        control("DELETE", "/vms/web01/snapshots/" + frozen_.snapshot.value);
      } catch (const std::runtime_error& locked) {
        // Its files cannot be merged while one is attached to a proxy; it is gone all the same.
        EXPECT_NE(std::string(locked.what()).find("FileLocked"), std::string::npos) << locked.what();
      }
    });
  });
  EXPECT_TRUE(view("web01")["snapshots"].empty());
  EXPECT_EQ(error.fault(), Fault::conflict);
  expect_words(error, "snapshot " + frozen_.snapshot.value + " of ");
}

void Ways::server_killed_in_mid_read() {
  const std::vector<char> content = random_content(capacity);
  const model::DiskKey disk = add_disk(content);
  freeze();
  const auto source = served(disk);
  const auto handle = connected(*source);
  const int pid = server_pid(folder_.path());
  ASSERT_GT(pid, 0);
  std::vector<char> buffer(capacity);
  int answers = 0;
  const std::uint64_t piece = 1 << 20;
  for (std::uint64_t at = 0; at < capacity; at += piece) {
    const std::uint64_t length = std::min(piece, capacity - at);
    const std::span<char> into(buffer.data() + at, length);
    handle->read(std::as_writable_bytes(into), at, [&, at, into](int error) {
      ++answers;
      if (error != 0) return;
      EXPECT_TRUE(std::equal(into.begin(), into.end(), content.begin() + static_cast<std::ptrdiff_t>(at))) << at;
    });
  }
  ASSERT_EQ(kill(pid, SIGKILL), 0);
  handle->drain(std::chrono::minutes(1));
  EXPECT_EQ(answers, 9);
  EXPECT_TRUE(whole(*source, [&] { kill_server(folder_.path()); }) == content);
}

void Ways::waits_for_a_slow_open() {
  constexpr std::chrono::milliseconds delay{700};
  const std::vector<char> content = random_content(capacity);
  const model::DiskKey disk = add_disk(content);
  freeze();
  const LabCall open = way_->opening();
  site_->script(fmt::format(R"({{"service":"{}","method":"{}","kind":"delay","delay_ms":{}}})", open.service,
                            open.method, delay.count()));
  const auto begun = std::chrono::steady_clock::now();
  const auto source = served(disk);
  EXPECT_TRUE(whole(*source) == content);
  EXPECT_GE(std::chrono::steady_clock::now() - begun, delay);
}

// Accounts get locked by those who try again and again.
void Ways::wrong_credentials() {
  const model::DiskKey disk = add_disk(random_content(chunk));
  freeze();
  const std::unique_ptr<Transport> refused = way_->transport(Login::wrong);
  control("DELETE", "/calls");
  const Error error = final_error([&] { whole(*refused->serve(frozen_, *frozen_.find(disk), {})); });
  EXPECT_EQ(error.fault(), Fault::auth) << error.what();
  EXPECT_EQ(calls(way_->login()), 1);
  // This session is of no use any more, and nothing was attached through it.
  machine_.reset();
}

void Ways::secret_is_nowhere() {
  const std::vector<char> content = random_content(capacity);
  const model::DiskKey disk = add_disk(content);
  freeze();
  const auto source = served(disk);
  const auto handle = connected(*source);
  // Whatever a way has been given, and each cookie that there is.
  std::vector<std::string> secrets = nlohmann::json::parse(control("GET", "/secrets")).get<std::vector<std::string>>();
  EXPECT_FALSE(secrets.empty());
  secrets.push_back(lab_->secret("vcenter.password_file"));
  secrets.push_back(lab_->secret("vcenter.esxi_ssh.password_file"));
  secrets.emplace_back("/nfc/");  // where exports lie, for whoever knows
  int seen = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const std::string name = entry.path().filename();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    ++seen;
    for (const std::string& secret : secrets) EXPECT_FALSE(visible_to_others(std::stoi(name), secret)) << name;
  }
  EXPECT_GT(seen, 2);
  for (const auto& entry : std::filesystem::directory_iterator(site_->run()))
    EXPECT_EQ(entry.status().permissions() & (std::filesystem::perms::group_all | std::filesystem::perms::others_all),
              std::filesystem::perms::none)
        << entry.path();
  EXPECT_TRUE(whole(*source) == content);
  std::ifstream in(folder_.path() / "log");
  const std::string logged{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  EXPECT_FALSE(logged.empty());
  for (const std::string& secret : secrets) EXPECT_EQ(logged.find(secret), std::string::npos);
}

void Ways::disk_is_gone() {
  const model::DiskKey disk = add_disk(random_content(chunk));
  freeze();
  FrozenDisk gone = *frozen_.find(disk);
  gone.key = model::DiskKey{2063};
  gone.file.replace(gone.file.rfind('/') + 1, std::string::npos, "gone.vmdk");
  const Error error = final_error([&] { whole(*transport_->serve(frozen_, gone, {})); });
  EXPECT_TRUE(error.fault() == Fault::not_found || error.fault() == Fault::unsupported) << error.what();
  expect_words(error, "gone");
}

void Ways::another_disks_file() {
  const model::DiskKey disk = add_disk(random_content(capacity));
  freeze();
  FrozenDisk larger = *frozen_.find(disk);
  larger.capacity += chunk;
  const Error error = final_error([&] { whole(*transport_->serve(frozen_, larger, {})); });
  const std::string said = error.what();
  EXPECT_TRUE(said.find(fmt::format("{} bytes", capacity)) != std::string::npos ||
              said.find(fmt::format("{} sectors", capacity / 512)) != std::string::npos)
      << said;
}

void Ways::goes_on_by_the_next() {
  const std::vector<char> content = random_content(capacity);
  const model::DiskKey disk = add_disk(content);
  freeze();
  const auto source = served(disk);
  ASSERT_EQ(source->way().name, name_);
  EXPECT_TRUE(whole(*source, [&] {
                gate_.shut = true;
                kill_server(folder_.path());
              }) == content);
  EXPECT_EQ(source->way().name, next_name_);
  EXPECT_NE(source->way().reason.find(name_ + " failed in the middle of the copy: "), std::string::npos)
      << source->way().reason;
}

// ---- which way holds to what: all of them to all, but for what has no meaning there ----

struct Exception {
  const char* way;
  const char* why;
};

struct Promise {
  const char* name;
  void (Ways::*holds)();
  std::vector<Exception> but;
};

const std::vector<Promise>& points() {
  static const std::vector<Promise> all{
      {"ReadsAnywhere", &Ways::reads_anywhere, {}},
      {"OddSizesAndTails", &Ways::odd_sizes_and_tails, {}},
      {"NeverCallsDataZero", &Ways::never_calls_data_zero, {}},
      {"BeyondTwoTebibytes", &Ways::beyond_two_tebibytes, {}},
      {"AboveAnotherSnapshot", &Ways::above_another_snapshot, {}},
      {"SessionExpiresInTheMiddle",
       &Ways::session_expires_in_the_middle,
       {{"file", "reads without any session"}, {"ssh", "logs in to the host, which knows no sessions of vSphere"}}},
      {"SnapshotRemovedInTheMiddle", &Ways::snapshot_removed_in_the_middle, {}},
      {"ServerKilledInMidRead", &Ways::server_killed_in_mid_read, {}},
      {"WaitsForASlowOpen", &Ways::waits_for_a_slow_open, {{"file", "asks nobody: a mounted file opens or does not"}}},
      {"WrongCredentials", &Ways::wrong_credentials, {{"file", "has none: whoever mounted the datastore had them"}}},
      {"TheSecretIsNowhere", &Ways::secret_is_nowhere, {{"file", "is given none"}}},
      {"SaysWhichDiskIsGone", &Ways::disk_is_gone, {}},
      {"RefusesAnotherDisksFile", &Ways::another_disks_file, {}},
  };
  return all;
}

class Held final : public Ways {
 public:
  Held(const char* way, void (Ways::*holds)(), const char* next = "") : Ways(way, next), holds_(holds) {}
  void TestBody() override { (this->*holds_)(); }

 private:
  void (Ways::*holds_)();
};

const bool registered [[maybe_unused]] = [] {
  for (const char* way : all_ways)
    for (const Promise& point : points())
      if (std::none_of(point.but.begin(), point.but.end(),
                       [&](const Exception& e) { return std::string(e.way) == way; }))
        testing::RegisterTest((std::string("Ways/") + way).c_str(), point.name, nullptr, nullptr, __FILE__, __LINE__,
                              [way, holds = point.holds]() -> Ways* { return new Held(way, holds); });
  for (const char* way : all_ways)
    for (const char* next : all_ways)
      if (way != next)
        testing::RegisterTest((std::string("Ways/") + way).c_str(), (std::string("GoesOnBy/") + next).c_str(), nullptr,
                              nullptr, __FILE__, __LINE__,
                              [way, next]() -> Ways* { return new Held(way, &Ways::goes_on_by_the_next, next); });
  return true;
}();

}  // namespace

}  // namespace vmferry::source::vmware::test
