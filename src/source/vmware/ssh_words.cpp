// The plugin's words: nbdkit's plugins/ssh/ssh.c (1.32 to 1.40), which passes libssh's on. OpenSSH's sftp-server maps
// every errno but a few (no such file, no permission, bad name) to SSH_FX_FAILURE, so ESXi's "Device or resource busy"
// arrives as "Failure" (sftp-server.c, errno_to_portable).
#include "source/vmware/ssh_words.hpp"

#include <fmt/format.h>

namespace vmferry::source::vmware {

namespace {

std::string last_error(const std::string& words) {
  const auto at = words.rfind("error: ");
  return at == std::string::npos ? words : words.substr(at + 7);
}

bool says(const std::string& words, std::string_view text) { return words.find(text) != std::string::npos; }

Error not_opened(const std::string& said, const SshFile& file) {
  if (says(said, "No such file"))
    return {
        Fault::not_found,
        fmt::format("{} has no file {}: the datastore is not mounted on this host, the disk was moved (storage "
                    "vMotion), or it is kept on vSAN or vVols, which have no flat files; see --esxi-ssh-address, or "
                    "use another transport",
                    file.host, file.path)};
  if (says(said, "Permission denied"))
    return {Fault::auth, fmt::format("{} does not let {} read {}; --esxi-ssh-user root may read every datastore",
                                     file.host, file.user, file.path)};
  if (says(said, "Failure"))
    return {
        Fault::conflict,
        fmt::format("{} does not open {}: a running machine's disk is locked (\"Device or resource busy\") unless it "
                    "lies below a snapshot; see whether the snapshot is still there and which host has the file "
                    "(vmkfstools -D on {})",
                    file.host, file.path, file.host),
        "locked"};
  // Not the file's fault, as far as is known: a session that ended just then, mostly.
  return {Fault::unavailable, fmt::format("{} does not open {}: {}", file.host, file.path, said)};
}

}  // namespace

Error ssh_problem(const std::string& words, const SshFile& file) {
  const std::string said = last_error(words);
  if (says(said, "cannot open file for reading")) return not_opened(said, file);
  if (says(said, "host key for server"))
    return {Fault::auth,
            fmt::format("the host key of {} is another one than the known one ({}): find out whether the host was "
                        "installed anew or somebody is in between, then replace its line in the known-hosts file",
                        file.host, said)};
  if (says(said, "host key is unknown") || says(said, "known_hosts") || says(said, "known hosts"))
    return {Fault::auth,
            fmt::format("the host key of {} is not known: look at it in the host's console (ssh-keygen -lf "
                        "/etc/ssh/ssh_host_rsa_key.pub, or its own kind), put it into a file as ssh-keyscan prints it, "
                        "and give that with --esxi-ssh-known-hosts",
                        file.host)};
  if (says(said, "authentication methods failed"))
    return {
        Fault::auth,
        fmt::format("{} refuses {}: {}", file.host, file.user,
                    file.password_given
                        ? "the password is wrong, or sshd takes none (ESXi's PasswordAuthentication is off by "
                          "default, and what it asks instead cannot be answered here); give a key with "
                          "--esxi-ssh-key"
                        : "no key is accepted; add it to /etc/ssh/keys-root/authorized_keys on the host and give it "
                          "with --esxi-ssh-key, or give --esxi-ssh-password-file"),
        refused_login};
  if (says(said, "failed to connect to remote host"))
    return {Fault::unavailable,
            fmt::format("no ssh connection to {} ({}): switch SSH on (in the vSphere Client: the host > Configure > "
                        "Services > SSH > Start; or govc host.service start TSM-SSH), open its firewall for this host, "
                        "or correct --esxi-ssh-address",
                        file.host, said)};
  return {Fault::unavailable, fmt::format("{} cannot be read by ssh from {}: {}", file.path, file.host, said)};
}

}  // namespace vmferry::source::vmware
