// One login, shared by threads. A call that finds it ended makes a new one, exactly once, whoever comes first.
#include "vsphere/session.hpp"

#include <fmt/format.h>

#include "base/finally.hpp"

namespace vmferry::vsphere {

namespace {

using namespace std::chrono_literals;

// What the server may take for an ordinary call; a large inventory or a slow datastore needs most of it.
constexpr std::chrono::seconds ordinary{120};
// After a refused login, how long the refusal stands for every thread without asking again.
constexpr std::chrono::seconds refusal_stands{60};

const Moref service_instance{"ServiceInstance", "ServiceInstance"};

std::string describe(const Call& call) { return fmt::format("{} on {}", call.method(), to_string(call.on())); }

// The cookie's name and value as they came; the value's quotes belong to it.
std::string session_cookie(const http::Headers& headers) {
  for (const auto& [name, value] : headers) {
    constexpr std::string_view wanted = "set-cookie";
    if (name.size() != wanted.size()) continue;
    bool same = true;
    for (std::size_t i = 0; i < name.size(); ++i) same = same && (name[i] | 0x20) == (wanted[i] | 0x20);
    if (!same || !value.starts_with("vmware_soap_session=")) continue;
    return value.substr(0, value.find(';'));
  }
  return {};
}

// At first a wrong address should be said soon. Later, in the middle of a copy of many hours, a vCenter that restarts
// is worth minutes.
http::RetryPolicy policy(bool was_logged_in) {
  http::RetryPolicy patience;
  patience.attempts = was_logged_in ? 12 : 3;
  return patience;
}

}  // namespace

Session::Session(http::Transport& transport, SessionOptions options, Clock& clock, log::Log& log, std::stop_token stop)
    : transport_(transport), options_(std::move(options)), clock_(clock), log_(log) {
  log_.redactor().add(options_.password);
  retrieve_content(stop);
  log_in(stop);
  if (options_.keep_alive > 0s) keeper_ = std::jthread([this](std::stop_token ended) { keep_alive(ended); });
}

Session::~Session() {
  if (keeper_.joinable()) {
    keeper_.request_stop();
    keeper_.join();
  }
  log_out();
}

std::pair<Secret, std::uint64_t> Session::current() const {
  const std::scoped_lock lock(mutex_);
  return {cookie_.share(), login_};
}

std::uint64_t Session::login() const {
  const std::scoped_lock lock(mutex_);
  return login_;
}

Session::Exchanged Session::exchange(const Call& call, Repeat repeat, const Secret& cookie, std::chrono::seconds wait,
                                     std::stop_token stop) {
  const std::string what = describe(call);
  log_.debug("vSphere", {{"call", call.method()}});  // the transport's own line cannot tell them apart
  http::Request request;
  request.method = "POST";
  request.url = fmt::format("https://{}/sdk", options_.endpoint);
  request.headers = {{"Content-Type", "text/xml; charset=utf-8"}};
  // The version decides which properties the server shows. Its own apiVersion is one it surely knows; a newer one is
  // refused ("Unsupported version URI"). See the vSphere Web Services SDK Programming Guide, "Multiple Versions of the
  // API".
  request.headers.emplace_back("SOAPAction", content_.api_version.empty()
                                                 ? std::string("urn:vim25")
                                                 : fmt::format("urn:vim25/{}", content_.api_version));
  if (!cookie.empty()) request.headers.emplace_back("Cookie", std::string(cookie.reveal()));
  request.body = call.envelope();
  request.timeout = ordinary + wait;
  const Finally forget([&] {
    wipe(request.body);
    for (auto& header : request.headers) wipe(header.second);
  });

  // A SOAP fault comes as HTTP 500, which a transport that retries by itself must not repeat: it never learns that a
  // call may be repeated, only the rules do.
  http::Request judged;
  judged.method = "POST";
  judged.idempotent = repeat == Repeat::freely;
  const http::RetryPolicy patience = policy(login() > 0);
  for (int attempt = 1;; ++attempt) {
    std::optional<std::chrono::milliseconds> pause;
    try {
      http::Response response = transport_.send(request, stop);
      if (response.status == 200 || response.status == 500) {
        try {
          return {decode_reply(response.body), std::move(response.headers)};
        } catch (Error& e) {
          if (response.status == 200) {
            if (repeat == Repeat::never)
              throw http::Broken(Fault::data,
                                 fmt::format("{} answered {} unreadably: {}", options_.endpoint, what, e.what()), true);
            e.during(fmt::format("reading the answer of {} to {}", options_.endpoint, what));
            throw;
          }
          // An HTTP 500 that is no SOAP comes from something in between: judged by its status, below.
        }
      }
      pause = http::retry_wait(patience, judged, attempt, &response, nullptr, clock_.wall());
      if (!pause) {
        const std::string message =
            fmt::format("{} answered {} with HTTP status {}", options_.endpoint, what, response.status);
        if (response.status >= 500) throw http::Broken(Fault::unavailable, message + ": try again later.", true);
        throw Error(
            Fault::config,
            fmt::format("{}: it does not speak like a vCenter or an ESXi host. Check the address and port.", message));
      }
    } catch (const http::Broken& broken) {
      if (!pause) pause = http::retry_wait(patience, judged, attempt, nullptr, &broken, clock_.wall());
      if (!pause) throw;
    }
    log_.warning("a call to vSphere broke and is repeated", {{"call", what}, {"server", options_.endpoint}});
    sleep_or_cancel(clock_, *pause, stop);
  }
}

Node Session::carry_out(const Call& call, Repeat repeat, std::optional<std::uint64_t> bound, std::chrono::seconds wait,
                        std::stop_token stop) {
  for (int round = 0;; ++round) {
    auto [cookie, login] = current();
    if (bound && *bound != login) throw SessionRenewed();
    Exchanged exchanged = exchange(call, repeat, cookie, wait, stop);
    if (!exchanged.reply.fault) return exchanged.reply.value;
    if (exchanged.reply.fault->name != "NotAuthenticated" || (round > 0 && !bound))
      throw fault_error(options_.endpoint, describe(call), std::move(*exchanged.reply.fault));
    // A call that was refused for its login was not acted on: sending it again is no blind repetition.
    log_.info("the vSphere session has ended; logging in again",
              {{"server", options_.endpoint}, {"call", call.method()}});
    renew(login, stop);
    if (bound) throw SessionRenewed();
  }
}

Node Session::call(const Call& call, Repeat repeat, std::stop_token stop, std::chrono::seconds wait) {
  return carry_out(call, repeat, std::nullopt, wait, stop);
}

Node Session::call_bound(const Call& call, std::uint64_t login, std::stop_token stop, std::chrono::seconds wait) {
  return carry_out(call, Repeat::freely, login, wait, stop);
}

void Session::retrieve_content(std::stop_token stop) {
  const Call call("RetrieveServiceContent", service_instance);
  const Exchanged exchanged = exchange(call, Repeat::freely, Secret(), 0s, stop);
  if (exchanged.reply.fault) throw fault_error(options_.endpoint, describe(call), *exchanged.reply.fault);
  const Node content = exchanged.reply.value["returnval"];
  const Node about = content["about"];
  if (!about)
    throw Error(Fault::config,
                fmt::format("{} does not answer like a vCenter or an ESXi host: check the address and port",
                            options_.endpoint));
  content_.instance_uuid = about["instanceUuid"].text();
  content_.full_name = about["fullName"].text();
  content_.is_vcenter = about["apiType"].text() != "HostAgent";
  content_.root_folder = content["rootFolder"].moref();
  content_.property_collector = content["propertyCollector"].moref();
  content_.session_manager = content["sessionManager"].moref();
  content_.view_manager = content["viewManager"].moref();
  content_.search_index = content["searchIndex"].moref();
  content_.authorization_manager = content["authorizationManager"].moref();
  // Set last: from here on requests carry it.
  content_.api_version = about["apiVersion"].text();
  if (content_.session_manager.empty() || content_.property_collector.empty() || content_.root_folder.empty())
    throw Error(Fault::data,
                fmt::format("{} leaves out its session manager, property collector or root folder: it is no "
                            "vCenter or ESXi host that can be used",
                            options_.endpoint));
}

void Session::log_in(std::stop_token stop) {
  Call call("Login", content_.session_manager);
  call.text("userName", options_.username).text("password", options_.password.reveal());
  const Finally forget([&] { call.wipe(); });
  // Sent without the old cookie: a login inside a living session is refused as InvalidLogin. A lost reply leaves a
  // session that nobody uses and that idles out, so repeating is harmless.
  Exchanged exchanged = exchange(call, Repeat::freely, Secret(), 0s, stop);
  if (exchanged.reply.fault) {
    SoapFault& fault = *exchanged.reply.fault;
    FaultError error =
        fault.name == "InvalidLogin"
            ? FaultError(Fault::auth,
                         fmt::format("{} refused the login of '{}': wrong user name or password (InvalidLogin). Check "
                                     "both; a vCenter user needs its domain, as in name@vsphere.local.",
                                     options_.endpoint, options_.username),
                         fault)
            : fault_error(options_.endpoint, fmt::format("the login of '{}'", options_.username), fault);
    const std::scoped_lock lock(mutex_);
    refused_ = error;
    refused_at_ = clock_.mono();
    throw error;
  }
  Secret cookie(session_cookie(exchanged.headers));
  if (cookie.empty())
    throw Error(Fault::data,
                fmt::format("{} accepted the login but gave no session cookie (vmware_soap_session): something in "
                            "between strips it",
                            options_.endpoint));
  log_.redactor().add(cookie);
  // Its bare value too: references of a session's own objects contain it ("session[5211...]52a4...").
  std::string key(cookie.reveal().substr(cookie.reveal().find('=') + 1));
  std::erase(key, '"');
  log_.redactor().add(Secret(std::move(key)));
  const std::scoped_lock lock(mutex_);
  cookie_ = std::move(cookie);
  ++login_;
  refused_.reset();
}

void Session::renew(std::uint64_t ended, std::stop_token stop) {
  std::unique_lock lock(mutex_);
  if (!renewed_.wait(lock, stop, [&] { return !renewing_; })) throw Cancelled();
  if (login_ != ended) return;
  if (refused_ && clock_.mono() - refused_at_ < refusal_stands) throw *refused_;
  renewing_ = true;
  lock.unlock();
  const Finally done([&] {
    {
      const std::scoped_lock again(mutex_);
      renewing_ = false;
    }
    renewed_.notify_all();
  });
  log_in(stop);
}

void Session::touch(std::stop_token stop) {
  // CurrentTime needs no login, so it cannot tell whether ours still stands; a property does.
  Call call("RetrievePropertiesEx", content_.property_collector);
  call.open("specSet").open("propSet").text("type", content_.root_folder.type).text("pathSet", "name").close();
  call.open("objectSet").object("obj", content_.root_folder).close().close();
  call.open("options").close();
  this->call(call, Repeat::freely, stop);
}

Secret Session::cookie(bool renew, std::stop_token stop) {
  if (renew) touch(stop);
  return current().first;
}

void Session::keep_alive(std::stop_token stop) {
  while (clock_.sleep(options_.keep_alive, stop)) {
    try {
      touch(stop);
    } catch (const Cancelled&) {
      return;
    } catch (const std::exception& e) {
      // Whoever needs the session next will see it, and is the one who can act.
      log_.warning("keeping the vSphere session alive failed", {{"server", options_.endpoint}, {"reason", e.what()}});
    }
  }
}

void Session::log_out() noexcept {
  try {
    const Call call("Logout", content_.session_manager);
    http::Request request;
    request.method = "POST";
    request.url = fmt::format("https://{}/sdk", options_.endpoint);
    request.headers = {{"Content-Type", "text/xml; charset=utf-8"},
                       {"SOAPAction", fmt::format("urn:vim25/{}", content_.api_version)},
                       {"Cookie", std::string(current().first.reveal())}};
    request.body = call.envelope();
    request.timeout = 5s;  // politeness has a limit: the session idles out by itself
    transport_.send(request, {});
    wipe(request.headers.back().second);
  } catch (const std::exception& e) {
    log_.debug("logging out of vSphere failed", {{"server", options_.endpoint}, {"reason", e.what()}});
  }
}

}  // namespace vmferry::vsphere
