// What nbdkit's ssh plugin says when it cannot open a file on an ESXi host, as a sentence with a remedy. Pure.
#pragma once

#include <string>

#include "base/error.hpp"

namespace vmferry::source::vmware {

struct SshFile {
  std::string host;  // "esxi1.example:22"
  std::string user;
  std::string path;  // "/vmfs/volumes/datastore1/web01/web01-flat.vmdk"
  bool password_given = false;
};

// The name of an Error that says that the host refuses the login.
inline constexpr const char* refused_login = "refused login";

// `words`: the plugin's lines of stderr, joined; the last one that is an error counts. Words that are not known are
// passed on.
Error ssh_problem(const std::string& words, const SshFile& file);

}  // namespace vmferry::source::vmware
