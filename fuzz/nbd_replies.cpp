// A copy from a server that answers with whatever the input says. It ends, with success or with Error; and when no
// byte of data came from the input, success means that the target is the source.
//
// Input: a byte of how (bit 0: the whole handshake is the input's, bit 1: no structured replies, bit 2: a delta, bit 3:
// without digests), a byte of size, then for each request a byte of what to answer and what that needs. When it is used
// up, answers are true.
#include <arpa/inet.h>
#include <endian.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <mutex>
#include <thread>

#include "base/error.hpp"
#include "base/fd.hpp"
#include "copy/copy.hpp"
#include "copy/digests.hpp"
#include "support/fake_clock.hpp"

namespace {

using namespace vmferry;

constexpr std::uint64_t option_magic = 0x49484156454F5054, option_reply_magic = 0x3e889045565a9;
constexpr std::uint32_t simple_magic = 0x67446698, structured_magic = 0x668e33ef;
constexpr std::uint16_t type_none = 0, type_data = 1, type_status = 5, done_flag = 1;
constexpr std::uint32_t opt_go = 7, opt_structured = 8, opt_set_meta = 10;
constexpr std::uint32_t ack = 1, info = 3, meta_context = 4, unsupported = 0x80000001;

std::byte true_byte(std::uint64_t offset) {
  return static_cast<std::byte>(offset / 4096 % 3 == 1 ? 0 : 1 + offset % 251);
}

// The input, taken by whichever connection is served.
struct Input {
  std::span<const std::uint8_t> rest;
  bool tainted = false;
  bool empty() const { return rest.empty(); }
  std::uint64_t number(std::size_t bytes) {
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < bytes && !rest.empty(); ++i, rest = rest.subspan(1)) value = value << 8 | rest[0];
    return value;
  }
  std::string bytes(std::size_t length) {
    length = std::min(length, rest.size());
    std::string text(reinterpret_cast<const char*>(rest.data()), length);
    rest = rest.subspan(length);
    return text;
  }
};

class Wire {
 public:
  explicit Wire(Fd fd) : fd_(std::move(fd)) {
    // A client that waits for more than comes would wait for ever.
    const timeval patience{0, 20000};
    setsockopt(fd_.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  }
  bool read(void* into, std::size_t length) {
    for (std::size_t got = 0; got < length;) {
      const ssize_t n = recv(fd_.get(), static_cast<char*>(into) + got, length - got, 0);
      if (n <= 0) return false;
      got += static_cast<std::size_t>(n);
    }
    return true;
  }
  bool skip(std::uint32_t length) {
    std::string ignored(std::min(length, 1U << 16), '\0');
    return length <= ignored.size() && read(ignored.data(), length);
  }
  bool send(const std::string& text) {
    return ::send(fd_.get(), text.data(), text.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(text.size());
  }

 private:
  Fd fd_;
};

struct Message {
  std::string text;
  Message& u16(std::uint16_t v) { return raw(htobe16(v)); }
  Message& u32(std::uint32_t v) { return raw(htobe32(v)); }
  Message& u64(std::uint64_t v) { return raw(htobe64(v)); }
  Message& add(const std::string& more) {
    text += more;
    return *this;
  }

 private:
  template <class T>
  Message& raw(T v) {
    text.append(reinterpret_cast<const char*>(&v), sizeof v);
    return *this;
  }
};

class Server {
 public:
  Server(Input& input, std::uint64_t size, bool raw_handshake, bool structured)
      : input_(input), size_(size), raw_(raw_handshake), structured_(structured) {
    char folder[] = "/tmp/fuzz-nbd-XXXXXX";
    if (!mkdtemp(folder)) abort();
    folder_ = folder;
    sockaddr_un address{AF_UNIX, {}};
    std::strncpy(address.sun_path, path().c_str(), sizeof address.sun_path - 1);
    listener_ = Fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
        listen(listener_.get(), 16) != 0)
      abort();
    acceptor_ = std::thread([this] {
      while (true) {
        Fd fd(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
        if (!fd) return;
        connections_.emplace_back([this, fd = std::move(fd)]() mutable {
          Wire wire(std::move(fd));
          serve(wire);
        });
      }
    });
  }
  ~Server() {
    shutdown(listener_.get(), SHUT_RDWR);
    acceptor_.join();
    for (std::thread& connection : connections_) connection.join();
    unlink(path().c_str());
    rmdir(folder_.c_str());
  }
  std::string path() const { return folder_ + "/s"; }

 private:
  void serve(Wire& wire) {
    {
      const std::scoped_lock lock(mutex_);
      if (raw_ && !input_.empty()) {
        input_.tainted = true;
        wire.send(input_.bytes(input_.rest.size()));
        return;
      }
    }
    if (negotiate(wire))
      while (answer(wire)) {
      }
  }

  static bool option_reply(Wire& wire, std::uint32_t option, std::uint32_t type, const std::string& data) {
    Message m;
    m.u64(option_reply_magic).u32(option).u32(type).u32(static_cast<std::uint32_t>(data.size())).add(data);
    return wire.send(m.text);
  }

  bool negotiate(Wire& wire) {
    Message greeting;
    greeting.add("NBDMAGIC").u64(option_magic).u16(3);
    std::uint32_t flags = 0;
    if (!wire.send(greeting.text) || !wire.read(&flags, sizeof flags)) return false;
    while (true) {
      struct [[gnu::packed]] {
        std::uint64_t magic;
        std::uint32_t option, length;
      } head;
      if (!wire.read(&head, sizeof head) || !wire.skip(be32toh(head.length))) return false;
      const std::uint32_t option = be32toh(head.option);
      if (option == opt_go) {
        Message export_info;
        export_info.u16(0).u64(size_).u16(3);  // flags: there are some, read-only
        return option_reply(wire, option, info, export_info.text) && option_reply(wire, option, ack, "");
      }
      if (structured_ && option == opt_structured) {
        if (!option_reply(wire, option, ack, "")) return false;
      } else if (structured_ && option == opt_set_meta) {
        Message context;
        context.u32(1).add("base:allocation");
        if (!option_reply(wire, option, meta_context, context.text) || !option_reply(wire, option, ack, ""))
          return false;
      } else if (!option_reply(wire, option, unsupported, "")) {
        return false;
      }
    }
  }

  struct [[gnu::packed]] Request {
    std::uint32_t magic;
    std::uint16_t flags, type;
    std::uint64_t cookie, offset;
    std::uint32_t length;
  };

  bool chunk(Wire& wire, std::uint64_t cookie, std::uint16_t flags, std::uint16_t type, const std::string& payload) {
    Message m;
    m.u32(structured_magic).u16(flags).u16(type).add(std::string(reinterpret_cast<const char*>(&cookie), 8));
    m.u32(static_cast<std::uint32_t>(payload.size())).add(payload);
    return wire.send(m.text);
  }

  bool answer(Wire& wire) {
    Request request;
    if (!wire.read(&request, sizeof request)) return false;
    const std::uint64_t offset = be64toh(request.offset);
    const std::uint32_t length = be32toh(request.length);
    const bool is_read = be16toh(request.type) == 0;
    if (be16toh(request.type) == 2 || offset + length > size_) return false;  // it says goodbye
    const std::scoped_lock lock(mutex_);
    switch (input_.empty() ? 0 : input_.number(1) % 8) {
      case 1: {
        const auto error = static_cast<std::uint32_t>(input_.number(1));
        if (error == 0) input_.tainted = true;  // what comes next is taken for data
        Message m;
        m.u32(simple_magic).u32(error);
        m.add(std::string(reinterpret_cast<const char*>(&request.cookie), 8));
        return wire.send(m.text);
      }
      case 2: {
        input_.tainted = true;
        const auto flags = static_cast<std::uint16_t>(input_.number(1)),
                   type = static_cast<std::uint16_t>(input_.number(2));
        return chunk(wire, request.cookie, flags, type, input_.bytes(input_.number(2)));
      }
      case 3:
        input_.tainted = true;
        wire.send(input_.bytes(input_.number(1)));
        return false;
      case 4:
        return chunk(wire, request.cookie ^ input_.number(1), done_flag, type_none, "");
      case 5:  // less than was asked for; a simple reply has no length that could tell
        if (!structured_) input_.tainted = true;
        return is_read ? data(wire, request.cookie, offset, static_cast<std::uint32_t>(input_.number(2) % (length + 1)),
                              done_flag)
                       : chunk(wire, request.cookie, done_flag, type_none, "");
      case 6:
        return false;
      case 7: {  // areas that lie
        input_.tainted = true;
        Message areas;
        areas.u32(1);
        for (std::uint64_t n = input_.number(1) % 8; n > 0; --n)
          areas.u32(static_cast<std::uint32_t>(input_.number(3))).u32(static_cast<std::uint32_t>(input_.number(1)));
        return chunk(wire, request.cookie, done_flag, type_status, areas.text);
      }
      default:
        return is_read ? data(wire, request.cookie, offset, length, done_flag)
                       : status(wire, request.cookie, offset, length);
    }
  }

  bool data(Wire& wire, std::uint64_t cookie, std::uint64_t offset, std::uint32_t length, std::uint16_t flags) {
    std::string bytes(length, '\0');
    for (std::uint32_t i = 0; i < length; ++i) bytes[i] = static_cast<char>(true_byte(offset + i));
    Message m;
    if (!structured_) {
      m.u32(simple_magic).u32(0).add(std::string(reinterpret_cast<const char*>(&cookie), 8)).add(bytes);
      return wire.send(m.text);
    }
    return chunk(wire, cookie, flags, type_data, m.u64(offset).add(bytes).text);
  }

  bool status(Wire& wire, std::uint64_t cookie, std::uint64_t offset, std::uint32_t length) {
    Message areas;
    areas.u32(1);
    for (std::uint64_t at = offset; at < offset + length;) {
      const std::uint64_t end = std::min(at / 4096 * 4096 + 4096, offset + length);
      areas.u32(static_cast<std::uint32_t>(end - at)).u32(at / 4096 % 3 == 1 ? 3 : 0);
      at = end;
    }
    return chunk(wire, cookie, done_flag, type_status, areas.text);
  }

  Input& input_;
  const std::uint64_t size_;
  const bool raw_, structured_;
  std::string folder_;
  std::mutex mutex_;
  Fd listener_;
  std::thread acceptor_;
  std::vector<std::thread> connections_;
};

class FuzzedSource final : public copy::Source {
 public:
  FuzzedSource(const Server& server, std::uint64_t size) : uri_("nbd+unix:///?socket=" + server.path()), size_(size) {}
  std::uint64_t bytes() const override { return size_; }
  std::unique_ptr<nbd::Handle> connect(std::stop_token stop) override {
    return std::make_unique<nbd::Handle>(nbd::Uri{uri_}, stop, std::chrono::seconds(1));
  }

 private:
  std::string uri_;
  std::uint64_t size_;
};

class MemoryTarget final : public copy::Target {
 public:
  explicit MemoryTarget(std::uint64_t size) : fd_(memfd_create("target", MFD_CLOEXEC)), size_(size) {
    if (!fd_ || ftruncate(fd_.get(), static_cast<off_t>(size)) != 0) abort();
  }
  std::string name() const override { return "target"; }
  int fd() const override { return fd_.get(); }
  std::uint64_t bytes() const override { return size_; }
  std::uint32_t sector() const override { return 512; }
  bool known_zero() const override { return true; }
  void check() const override {}
  bool is_source() const {
    std::string bytes(size_, '\0');
    if (pread(fd_.get(), bytes.data(), size_, 0) != static_cast<ssize_t>(size_)) return false;
    for (std::uint64_t i = 0; i < size_; ++i)
      if (static_cast<std::byte>(bytes[i]) != true_byte(i)) return false;
    return true;
  }

 private:
  Fd fd_;
  std::uint64_t size_;
};

struct Silent final : copy::Progress {
  void advanced(std::uint64_t, std::uint64_t) noexcept override {}
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t length) {
  Input input{{bytes, length}};
  const std::uint64_t how = input.number(1), size = (1 + input.number(1)) * 4096 + 512;
  MemoryTarget target(size);
  bool arrived = true;
  {
    Server server(input, size, how & 1, !(how & 2));
    try {
      FuzzedSource source(server, size);
      const auto work = copy::work(RangeSet(std::vector<ByteRange>{{0, size}}));
      copy::Tuning tuning;
      tuning.whole_disk = !(how & 4);
      tuning.request = 64 * 1024;
      tuning.attempts = 3;
      const std::unique_ptr<copy::Digests> digests =
          how & 8 ? nullptr : std::make_unique<copy::Digests>(server.path() + ".digests", "target", size);
      if (digests) {
        unlink((server.path() + ".digests").c_str());
        digests->unsettle();
      }
      tuning.digests = digests.get();
      Silent progress;
      support::FakeClock clock;
      log::Log log;
      copy::run(source, target, *work, tuning, progress, clock, log, {});
    } catch (const Error& e) {
      if (e.what()[0] == '\0') abort();
      arrived = false;
    }
  }
  if (arrived && !input.tainted && !target.is_source()) abort();
  return 0;
}
