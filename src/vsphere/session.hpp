// A logged-in session with a vCenter or an ESXi host: calls, keep-alive, and a new login when the old one ended.
// Thread-safe: disks are copied in parallel. Knows no method beyond what a session needs.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>

#include "base/clock.hpp"
#include "base/secret.hpp"
#include "http/http.hpp"
#include "log/log.hpp"
#include "vsphere/fault.hpp"
#include "vsphere/soap.hpp"

namespace vmferry::vsphere {

struct SessionOptions {
  std::string endpoint;  // "vcenter.example:443"
  std::string username;
  Secret password;
  // A session that idles for 30 minutes ends; zero = no keep-alive thread (tests with a fake clock).
  std::chrono::seconds keep_alive{240};
};

// RetrieveServiceContent: who is there, and its well-known objects.
struct ServiceContent {
  std::string instance_uuid;  // empty on old ESXi hosts
  std::string full_name;      // "VMware vCenter Server 8.0.2 build-..."
  std::string api_version;    // "8.0.2.0"
  bool is_vcenter = true;     // false: a bare ESXi host ("HostAgent")
  Moref root_folder;
  Moref property_collector;
  Moref session_manager;
  Moref view_manager;
  Moref search_index;
  Moref authorization_manager;
};

// May a call be sent again when its reply was lost? `never` gives http::Broken to the caller, who looks for the result.
enum class Repeat { freely, never };

// Thrown when the login that a call was bound to has ended: what it owned (views, collectors, page tokens) is gone.
class SessionRenewed : public std::exception {
 public:
  const char* what() const noexcept override { return "the session was renewed"; }
};

class Session {
 public:
  // Reads the service content and logs in. `transport` should not retry by itself (SOAP faults come as HTTP 500, and
  // the session repeats what may be repeated); recording it is fine.
  Session(http::Transport& transport, SessionOptions options, Clock& clock, log::Log& log, std::stop_token stop);
  ~Session();  // logs out, with a deadline of its own
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  const ServiceContent& content() const noexcept { return content_; }
  const std::string& server() const noexcept { return options_.endpoint; }
  Clock& clock() noexcept { return clock_; }
  log::Log& log() noexcept { return log_; }

  // The reply's <MethodResponse>. A fault is thrown as FaultError. NotAuthenticated logs in again and repeats the call
  // once. `wait`: how long the server itself may take (WaitForUpdatesEx).
  Node call(const Call& call, Repeat repeat, std::stop_token stop, std::chrono::seconds wait = std::chrono::seconds(0));
  // The same for an object that lives in one login only: throws SessionRenewed instead of repeating the call after a
  // new login.
  Node call_bound(const Call& call, std::uint64_t login, std::stop_token stop,
                  std::chrono::seconds wait = std::chrono::seconds(0));
  // Counts logins.
  std::uint64_t login() const;

  // "vmware_soap_session=..." for the datastore's /folder. `renew`: the one that was given before was refused.
  // Asks the server whether the login still stands before it makes a new one.
  Secret cookie(bool renew, std::stop_token stop);

 private:
  struct Exchanged {
    Reply reply;
    http::Headers headers;
  };
  Exchanged exchange(const Call& call, Repeat repeat, const Secret& cookie, std::chrono::seconds wait,
                     std::stop_token stop);
  Node carry_out(const Call& call, Repeat repeat, std::optional<std::uint64_t> bound, std::chrono::seconds wait,
                 std::stop_token stop);
  void retrieve_content(std::stop_token stop);
  void log_in(std::stop_token stop);
  void renew(std::uint64_t ended, std::stop_token stop);  // unless somebody did it already
  std::pair<Secret, std::uint64_t> current() const;
  void touch(std::stop_token stop);  // a cheap call that needs a login
  void keep_alive(std::stop_token stop);
  void log_out() noexcept;

  http::Transport& transport_;
  SessionOptions options_;
  Clock& clock_;
  log::Log& log_;
  ServiceContent content_;

  mutable std::mutex mutex_;  // everything below up to keeper_
  std::condition_variable_any renewed_;
  bool renewing_ = false;  // one login at a time
  Secret cookie_;
  std::uint64_t login_ = 0;
  std::optional<FaultError> refused_;  // the last login was refused: asking again and again would lock the account
  std::chrono::steady_clock::time_point refused_at_{};

  std::jthread keeper_;
};

}  // namespace vmferry::vsphere
