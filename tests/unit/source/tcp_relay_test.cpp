// A relay between a unix socket and TCP: bytes both ways, and no processor time where there is nothing to be done.
#include "source/vmware/tcp_relay.hpp"

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>

#include "base/finally.hpp"
#include "support/lab.hpp"

namespace vmferry::source::vmware {

namespace {

class TcpRelayTest : public ::testing::Test {
 protected:
  TcpRelayTest() : listener_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    EXPECT_EQ(bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(listen(listener_.get(), 4), 0);
    EXPECT_EQ(getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
    relay_ = std::make_unique<TcpRelay>(folder_.path(), "127.0.0.1", std::to_string(ntohs(address.sin_port)), log_);
  }

  static Fd unix_socket() { return Fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)); }
  void connect(const Fd& client) const {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    relay_->socket().string().copy(address.sun_path, sizeof address.sun_path - 1);
    ASSERT_EQ(::connect(client.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  }
  Fd accepted() const { return Fd(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC)); }

  // As much as goes in before nobody takes anything for a while.
  static std::size_t fill(const Fd& to, std::size_t most) {
    const std::string piece(16 * 1024, 'x');
    std::size_t sent = 0;
    for (pollfd ready{to.get(), POLLOUT, 0}; sent < most && ::poll(&ready, 1, 500) == 1;)
      if (const ssize_t n = send(to.get(), piece.data(), piece.size(), MSG_DONTWAIT | MSG_NOSIGNAL); n > 0)
        sent += static_cast<std::size_t>(n);
    return sent;
  }
  static std::size_t drain(const Fd& from) {
    std::string piece(64 * 1024, '\0');
    std::size_t got = 0;
    for (;;) {
      const ssize_t n = recv(from.get(), piece.data(), piece.size(), 0);
      if (n <= 0) return got;
      got += static_cast<std::size_t>(n);
    }
  }
  // Of this process, in a second in which the test itself sleeps. Who turns in a loop takes all that he gets.
  static std::chrono::milliseconds processor_time_of_a_second() {
    const auto spent = [] {
      timespec time{};
      clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
      return std::chrono::milliseconds(time.tv_sec * 1000 + time.tv_nsec / 1'000'000);
    };
    const auto before = spent();
    std::this_thread::sleep_for(std::chrono::seconds(1));
    return spent() - before;
  }

  support::TemporaryDirectory folder_;
  log::Log log_;
  Fd listener_;
  std::unique_ptr<TcpRelay> relay_;
};

constexpr std::chrono::milliseconds nearly_none{50};

TEST_F(TcpRelayTest, ClientThatIsGoneWhileTheServerTakesNothing) {
  Fd client = unix_socket();
  connect(client);
  const Fd server = accepted();
  const std::size_t sent = fill(client, SIZE_MAX);
  client = Fd();
  EXPECT_LT(processor_time_of_a_second(), nearly_none);
  EXPECT_EQ(drain(server), sent) << "what it had sent still comes";
}

TEST_F(TcpRelayTest, ServerThatIsGoneWhileTheClientTakesNothing) {
  const Fd client = unix_socket();
  connect(client);
  Fd server = accepted();
  // Both directions are shut for the relay's end, which is what poll() calls a hang-up.
  ASSERT_EQ(shutdown(client.get(), SHUT_WR), 0);
  ASSERT_EQ(drain(server), 0U);
  // More than the relay's buffer and the client's hold, but no more than the kernel takes in for the relay: else its
  // end does not come to hear of the close.
  const std::size_t sent = fill(server, 544 * 1024);
  server = Fd();
  EXPECT_LT(processor_time_of_a_second(), nearly_none);
  EXPECT_EQ(drain(client), sent) << "what it had sent still comes";
}

TEST_F(TcpRelayTest, NoDescriptorsAreLeft) {
  const Fd client = unix_socket();
  {
    rlimit before{};
    ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
    const Finally restore([&] { setrlimit(RLIMIT_NOFILE, &before); });
    const Fd lowest_free(open("/dev/null", O_RDONLY | O_CLOEXEC));
    const rlimit none{static_cast<rlim_t>(lowest_free.get()) + 1, before.rlim_max};
    ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
    connect(client);
    EXPECT_LT(processor_time_of_a_second(), nearly_none);
  }
  const Fd server = accepted();
  ASSERT_EQ(send(client.get(), "late", 4, MSG_NOSIGNAL), 4);
  char word[4] = {};
  ASSERT_EQ(recv(server.get(), word, sizeof word, MSG_WAITALL), 4);
  EXPECT_EQ(std::string(word, 4), "late");
}

}  // namespace

}  // namespace vmferry::source::vmware
