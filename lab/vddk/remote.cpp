// A frozen disk of the lab's vCenter, over a protocol that only this library speaks (lab/vcenter/vddk.go): one
// connection for each open disk, requests answered by their tags.
#include <string.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <unordered_map>

#include "disk.hpp"
#include "tls.hpp"

namespace lab {

namespace {

constexpr std::uint32_t op_read = 1;
constexpr std::uint32_t op_map = 2;

struct Request {  // as on the wire, little endian like every machine that VDDK runs on
  std::uint32_t op;
  std::uint32_t tag;
  std::uint64_t sector;
  std::uint64_t sectors;
};
struct Reply {
  std::uint32_t tag;
  std::uint32_t error;
  std::uint64_t bytes;
};

Problem problem_in(const Answer& answer) {
  const auto code = answer.headers.find("x-lab-vix-error");
  return {code == answer.headers.end() ? vix::cannot_connect : std::stoull(code->second), answer.body};
}

class RemoteDisk final : public Disk {
 public:
  RemoteDisk(std::unique_ptr<Tls> tls, std::uint64_t sectors, std::uint64_t read_limit)
      : tls_(std::move(tls)), sectors_(sectors), read_limit_(read_limit), receiver_([this] { receive(); }) {}
  ~RemoteDisk() override {
    tls_->shut();
    receiver_.join();
  }

  std::uint64_t sectors() const override { return sectors_; }
  std::uint64_t read_limit() const override { return read_limit_; }

  void read(std::uint64_t sector, std::uint64_t sectors, unsigned char* buffer, Done done) override {
    send(op_read, sector, sectors, {buffer, sectors * vix::sector, nullptr, std::move(done)});
  }

  std::vector<vix::Block> map(std::uint64_t sector, std::uint64_t sectors, std::uint64_t chunk) override {
    std::vector<vix::Block> areas;
    std::mutex mutex;
    std::condition_variable wake;
    bool ended = false;
    vix::Error result = vix::ok;
    send(op_map, sector, sectors, {nullptr, 0, &areas, [&](vix::Error error) {
                                     std::scoped_lock lock(mutex);
                                     ended = true;
                                     result = error;
                                     wake.notify_one();
                                   }});
    std::unique_lock lock(mutex);
    wake.wait(lock, [&] { return ended; });
    if (result != vix::ok) throw Problem{result, "the server does not say what is allocated"};
    std::vector<vix::Block> blocks;
    for (const vix::Block& area : areas) {
      const std::uint64_t first = area.offset / chunk * chunk;
      const std::uint64_t last = (area.offset + area.length + chunk - 1) / chunk * chunk;
      if (!blocks.empty() && blocks.back().offset + blocks.back().length >= first)
        blocks.back().length = last - blocks.back().offset;
      else
        blocks.push_back({first, last - first});
    }
    return blocks;
  }

 private:
  struct Pending {
    unsigned char* buffer;
    std::uint64_t bytes;
    std::vector<vix::Block>* areas;
    Done done;
  };

  void send(std::uint32_t op, std::uint64_t sector, std::uint64_t sectors, Pending pending) {
    Request request{op, 0, sector, sectors};
    {
      std::unique_lock lock(mutex_);
      if (lost_) {
        lock.unlock();
        pending.done(vix::connection_lost);
        return;
      }
      request.tag = next_tag_++;
      pending_.emplace(request.tag, std::move(pending));
    }
    if (!tls_->write(&request, sizeof request)) tls_->shut();  // the receiver tells everybody
  }

  void receive() {
    Reply reply{};
    while (tls_->read(&reply, sizeof reply)) {
      Pending pending;
      {
        std::scoped_lock lock(mutex_);
        const auto found = pending_.find(reply.tag);
        if (found == pending_.end()) break;
        pending = std::move(found->second);
        pending_.erase(found);
      }
      vix::Error result = reply.error;
      if (result == vix::ok && !take(reply, pending)) result = vix::connection_lost;
      pending.done(result);
      if (result == vix::connection_lost) break;
    }
    std::unordered_map<std::uint32_t, Pending> left;
    {
      std::scoped_lock lock(mutex_);
      lost_ = true;
      left.swap(pending_);
    }
    for (auto& [tag, pending] : left) pending.done(vix::connection_lost);
  }

  bool take(const Reply& reply, Pending& pending) {
    if (pending.areas == nullptr) return reply.bytes == pending.bytes && tls_->read(pending.buffer, reply.bytes);
    pending.areas->resize(reply.bytes / sizeof(vix::Block));
    return tls_->read(pending.areas->data(), reply.bytes);
  }

  std::unique_ptr<Tls> tls_;
  const std::uint64_t sectors_, read_limit_;
  std::mutex mutex_;
  bool lost_ = false;
  std::uint32_t next_tag_ = 1;
  std::unordered_map<std::uint32_t, Pending> pending_;
  std::thread receiver_;  // last: it uses the others
};

}  // namespace

Session::Session(Login login) : login_(std::move(login)) {
  Tls tls(login_.server, login_.port, login_.thumbprint);
  std::string request = "POST /vddk/session HTTP/1.1\r\nHost: lab\r\nContent-Length: 0\r\n";
  request += login_.cookie.empty() ? "Authorization: Basic " + base64(login_.user + ":" + login_.password)
                                   : "Cookie: " + login_.cookie;
  const Answer answer = ask(tls, request + "\r\n\r\n");
  if (answer.status != 200) throw problem_in(answer);
  if (!login_.cookie.empty()) return;
  const auto cookie = answer.headers.find("set-cookie");
  if (cookie == answer.headers.end()) throw Problem{vix::authentication, "the server opened no session"};
  login_.cookie = cookie->second.substr(0, cookie->second.find(';'));
  ours_ = true;
}

Session::~Session() {
  if (!ours_) return;
  try {
    Tls tls(login_.server, login_.port, login_.thumbprint);
    ask(tls,
        "DELETE /vddk/session HTTP/1.1\r\nHost: lab\r\nContent-Length: 0\r\nCookie: " + login_.cookie + "\r\n\r\n");
  } catch (const Problem&) {
    // It ends by itself.
  }
}

std::unique_ptr<Disk> Session::open(const std::string& vm, const std::string& snapshot, const std::string& file,
                                    const std::map<std::string, std::string>& orders) const {
  std::string told;
  for (const auto& [name, value] : orders) told += "&" + percent_encode(name) + "=" + percent_encode(value);
  auto tls = std::make_unique<Tls>(login_.server, login_.port, login_.thumbprint);
  const Answer answer =
      ask(*tls, "GET /vddk/disk?vm=" + percent_encode(vm) + "&snapshot=" + percent_encode(snapshot) +
                    "&file=" + percent_encode(file) + told + " HTTP/1.1\r\nHost: lab\r\nCookie: " + login_.cookie +
                    "\r\nConnection: Upgrade\r\nUpgrade: lab-vddk\r\n\r\n");
  if (answer.status != 101) throw problem_in(answer);
  return std::make_unique<RemoteDisk>(std::move(tls), std::stoull(answer.headers.at("x-lab-sectors")),
                                      std::stoull(answer.headers.at("x-lab-read-limit")));
}

}  // namespace lab
