// An ESXi host's SSH as a test fixture: the lab's (`vmferry-lab esxi-ssh`), in a folder of its own.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "base/sync.hpp"
#include "process/process.hpp"
#include "support/lab.hpp"

namespace vmferry::support {

class EsxiSsh {
 public:
  explicit EsxiSsh(process::Runner& runner);
  // What clients see as /vmfs/volumes.
  std::filesystem::path datastores() const { return folder_.path() / "esxi/root/vmfs/volumes"; }
  std::string host() const { return "127.0.0.1"; }
  int port() const noexcept { return port_; }
  std::filesystem::path password_file() const { return folder_.path() / "esxi/password"; }
  std::filesystem::path key() const { return folder_.path() / "esxi/user_key"; }
  std::filesystem::path known_hosts() const { return folder_.path() / "esxi/known_hosts"; }
  // What sshd said.
  std::string log() const;
  // Ends the sftp-server of every session; how many there were.
  int end_sessions() const;

 private:
  TemporaryDirectory folder_;
  int port_ = 0;
  std::shared_ptr<Sync<std::string>> words_ = std::make_shared<Sync<std::string>>();
  std::unique_ptr<process::Child> child_;  // ends before its folder
};

}  // namespace vmferry::support
