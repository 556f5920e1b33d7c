// Disks by ssh: nbdkit's ssh plugin against OpenSSH's sshd and sftp-server, as the lab's ESXi host has them.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <atomic>
#include <thread>

#include "source/vmware/ssh_words.hpp"
#include "support/esxi_ssh.hpp"
#include "transport_fixture.hpp"

namespace vmferry::source::vmware::test {

namespace {

class SshTransportTest : public TransportTest {
 protected:
  SshTransportTest() {
    std::filesystem::create_directories(flat().parent_path());
    std::ofstream(flat(), std::ios::binary).write(content_.data(), static_cast<std::streamsize>(content_.size()));
  }
  std::filesystem::path flat() const { return esxi_.datastores() / "Local DS/web 01/web 01-flat.vmdk"; }
  SshOptions right() const {
    SshOptions options;
    options.host = esxi_.host();
    options.port = esxi_.port();
    options.identity = esxi_.key();
    options.known_hosts = esxi_.known_hosts();
    options.run_directory = folder_.path() / "run";
    return options;
  }
  std::unique_ptr<copy::Source> served(SshOptions options) {
    made_ = ssh_transport(std::move(options), runner_, log_);
    return made_->serve(point_, disk(), {});
  }
  Error refusal(SshOptions options) {
    Error error = thrown([&] { served(std::move(options)); });
    EXPECT_EQ(error.trail().size(), 1U);
    return error;
  }
  void expect(const Error& error, Fault fault, const std::string& words) {
    EXPECT_EQ(error.fault(), fault) << error.what();
    EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
  }

  const std::vector<char> content_ = random_content(capacity);
  support::EsxiSsh esxi_{runner_};
  std::unique_ptr<Transport> made_;
};

}  // namespace

TEST_F(SshTransportTest, ByKey) { EXPECT_TRUE(copied(*served(right())) == content_); }

TEST_F(SshTransportTest, GoesOnAfterItsSessionsEnded) {
  const auto source = served(right());
  {
    const auto held = source->connect({});
    EXPECT_GT(esxi_.end_sessions(), 0);
  }
  // And again, while it reads or is being opened: either way the copy goes on.
  std::jthread killer([&](std::stop_token stop) {
    for (int ended = 0; ended < 2 && !stop.stop_requested(); usleep(20000)) ended += esxi_.end_sessions() > 0 ? 1 : 0;
  });
  EXPECT_TRUE(copied(*source) == content_);
}

TEST_F(SshTransportTest, WrongCredentials) {
  SshOptions wrong = right();
  wrong.identity = "/nonexistent";
  wrong.password = Secret("not the password");
  expect(refusal(std::move(wrong)), Fault::auth, "PasswordAuthentication");
  SshOptions none = right();
  none.identity = "/nonexistent";
  expect(refusal(std::move(none)), Fault::auth, "authorized_keys");
}

// ESXi locks the account after five of them, for everything.
TEST_F(SshTransportTest, WrongCredentialsAreTriedOnceForAllDisks) {
  SshOptions wrong = right();
  wrong.identity = "/nonexistent";
  wrong.password = Secret("not the password");
  const auto transport = ssh_transport(std::move(wrong), runner_, log_);
  std::atomic<int> refused{0};
  {
    std::vector<std::jthread> disks;
    for (int i = 0; i < 6; ++i)
      disks.emplace_back([&] {
        const Error error = thrown([&] { transport->serve(point_, disk(), {}); });
        refused += error.fault() == Fault::auth && error.trail().size() <= 1;
      });
  }
  EXPECT_EQ(refused, 6);
  // The server answers first, and then writes it down.
  for (int i = 0; i < 3000 && esxi_.log().find("Failed password") == std::string::npos; ++i) usleep(20000);
  const std::string said = esxi_.log();
  int logins = 0;
  for (std::size_t at = said.find("Failed password"); at != std::string::npos;
       at = said.find("Failed password", at + 1))
    ++logins;
  EXPECT_EQ(logins, 1) << said;
}

TEST_F(SshTransportTest, TheHostsKeyIsVerified) {
  SshOptions unknown = right();
  unknown.known_hosts = folder_.path() / "none";
  expect(refusal(std::move(unknown)), Fault::auth, "--esxi-ssh-known-hosts");
  std::ifstream in(esxi_.key().string() + ".pub");  // some other key
  std::string kind, key;
  in >> kind >> key;
  write("known", "[127.0.0.1]:" + std::to_string(esxi_.port()) + " " + kind + " " + key + "\n");
  SshOptions changed = right();
  changed.known_hosts = folder_.path() / "known";
  expect(refusal(std::move(changed)), Fault::auth, "another one than the known one");
  EXPECT_EQ(esxi_.log().find("Accepted"), std::string::npos) << esxi_.log();  // nobody logged in
}

TEST_F(SshTransportTest, LockedAndMissingFiles) {
  std::filesystem::remove(flat());
  expect(refusal(right()), Fault::not_found, "/vmfs/volumes/Local DS/web 01/web 01-flat.vmdk");
  ASSERT_EQ(mknod(flat().c_str(), S_IFSOCK | 0600, 0), 0);  // exists, cannot be opened: see lab/esxissh
  const Error locked = refusal(right());
  expect(locked, Fault::conflict, "Device or resource busy");
  EXPECT_EQ(locked.name(), "locked");
}

TEST_F(SshTransportTest, SshSwitchedOff) {
  SshOptions off = right();
  off.port = 1;
  expect(refusal(std::move(off)), Fault::unavailable, "TSM-SSH");
}

TEST(SshWords, TheLastErrorCounts) {
  const SshFile file{"esxi1:22", "root", "/vmfs/volumes/ds/a-flat.vmdk", true};
  // nbdkit 1.40's words for what 1.32 says otherwise.
  EXPECT_EQ(ssh_problem("nbdkit: ssh[1]: error: host key is unknown, you must use ssh first", file).fault(),
            Fault::auth);
  EXPECT_EQ(ssh_problem("nbdkit: ssh[1]: error: could not find known_hosts file", file).fault(), Fault::auth);
  EXPECT_EQ(ssh_problem("nbdkit: ssh[1]: error: all possible authentication methods failed; "
                        "nbdkit: ssh[2]: error: cannot open file for reading: SFTP server: No such file",
                        file)
                .fault(),
            Fault::not_found);
  EXPECT_EQ(ssh_problem("nbdkit: ssh[1]: error: cannot open file for reading: Received EOF while reading sftp packet "
                        "size",
                        file)
                .fault(),
            Fault::unavailable);
  const Error other = ssh_problem("nbdkit: ssh[1]: error: something new", file);
  EXPECT_NE(std::string(other.what()).find("something new"), std::string::npos);
}

}  // namespace vmferry::source::vmware::test
