// The only file that includes libnbd. Its callbacks run under the handle's lock, where no nbd_* call on the same handle
// is allowed (libnbd(3), "Callbacks"), so they only note what finished; deliver() tells the caller afterwards.
#include "nbd/nbd.hpp"

#include <fmt/format.h>
#include <libnbd.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.hpp"

namespace vmferry::nbd {

namespace {

constexpr std::uint64_t longest_read = 64ULL << 20;   // libnbd's own limit for one nbd_pread
constexpr std::uint64_t longest_status = 1ULL << 30;  // a block status request counts in 32 bits
constexpr std::uint32_t assumed_maximum = 32U << 20;  // of a server that names none (NBD protocol, "Block sizes")
constexpr std::chrono::milliseconds slice{200};       // how often a blocking wait looks at its stop token

std::string last_error() {
  const char* text = nbd_get_error();
  return text != nullptr ? text : "no reason given";
}

int last_errno() {
  const int error = nbd_get_errno();
  return error != 0 ? error : EIO;
}

struct Request {
  std::vector<Request*>* finished = nullptr;
  Done done;
  ExtentsDone extents_done;
  ByteRange range;
  std::vector<Extent> extents;
  std::uint64_t missing = 0;  // bytes of a read that have not come
  int error = 0;
};

int completed(void* data, int* error) {
  auto* request = static_cast<Request*>(data);
  // libnbd looks for missing data only in nbd_aio_command_completed(), after this callback (seen with 1.14.2): a server
  // that ends its answer early would leave rubbish in the buffer.
  request->error = *error == 0 && request->missing != 0 ? EPROTO : *error;
  request->finished->push_back(request);
  return 1;  // retire it: nobody asks nbd_aio_command_completed()
}

int data_arrived(void* data, const void*, std::size_t count, std::uint64_t, unsigned status, int*) {
  auto* request = static_cast<Request*>(data);
  if (status != LIBNBD_READ_ERROR) request->missing -= std::min<std::uint64_t>(count, request->missing);
  return 0;
}

// May be called several times for one request (one chunk each), always in rising order.
int extents_arrived(void* data, const char* context, std::uint64_t offset, std::uint32_t* entries, std::size_t count,
                    int* error) {
  if (*error != 0 || std::strcmp(context, LIBNBD_CONTEXT_BASE_ALLOCATION) != 0) return 0;
  auto* request = static_cast<Request*>(data);
  for (std::size_t i = 0; i + 1 < count; i += 2) {
    const std::uint64_t begin = std::max(offset, request->range.offset);
    const std::uint64_t end = std::min(offset + entries[i], request->range.end());
    offset += entries[i];
    if (begin >= end) continue;
    const bool zero = (entries[i + 1] & LIBNBD_STATE_ZERO) != 0;
    auto& known = request->extents;
    if (!known.empty() && known.back().range.end() == begin && known.back().zero == zero)
      known.back().range.length += end - begin;
    else
      known.push_back({{begin, end - begin}, zero});
  }
  return 0;
}

}  // namespace

struct Handle::State {
  nbd_handle* nbd = nullptr;
  std::uint64_t bytes = 0;
  bool can_extents = false;
  std::uint32_t minimum = 1;
  std::uint32_t maximum = assumed_maximum;
  std::vector<std::unique_ptr<Request>> requests;  // owned here from start until its callback has run
  std::vector<Request*> idle;
  std::vector<Request*> finished;
  int in_flight = 0;

  ~State() {
    if (nbd != nullptr) nbd_close(nbd);
  }

  Request* fresh() {
    if (idle.empty()) {
      requests.push_back(std::make_unique<Request>());
      requests.back()->finished = &finished;
      idle.push_back(requests.back().get());
      finished.reserve(requests.size());  // so that completed() never allocates
    }
    Request* request = idle.back();
    idle.pop_back();
    ++in_flight;
    return request;
  }

  // libnbd refused to take it: told like any other failure, later, by deliver().
  void refused(Request* request) {
    request->error = last_errno();
    finished.push_back(request);
  }

  void connect(const Uri& uri, std::stop_token stop, std::chrono::milliseconds patience) {
    const auto give_up = std::chrono::steady_clock::now() + patience;
    if (nbd_aio_connect_uri(nbd, uri.text.c_str()) == -1)
      throw Error(Fault::unavailable, fmt::format("cannot connect to the disk's NBD server: {}", last_error()));
    while (nbd_aio_is_connecting(nbd) == 1) {
      if (stop.stop_requested()) throw Cancelled();
      if (std::chrono::steady_clock::now() > give_up)
        throw Error(Fault::unavailable,
                    fmt::format("the disk's NBD server did not answer within {} s",
                                std::chrono::duration_cast<std::chrono::seconds>(patience).count()));
      if (nbd_poll(nbd, static_cast<int>(slice.count())) == -1)
        throw Error(Fault::unavailable, fmt::format("cannot connect to the disk's NBD server: {}", last_error()));
    }
    if (nbd_aio_is_ready(nbd) != 1)
      throw Error(Fault::unavailable,
                  fmt::format("the disk's NBD server closed the connection at once: {}", last_error()));
  }

  void negotiated() {
    const std::int64_t size = nbd_get_size(nbd);
    if (size < 0)
      throw Error(Fault::data, fmt::format("the NBD server does not say how large the disk is: {}", last_error()));
    bytes = static_cast<std::uint64_t>(size);
    can_extents = nbd_can_meta_context(nbd, LIBNBD_CONTEXT_BASE_ALLOCATION) == 1;
    if (const std::int64_t block = nbd_get_block_size(nbd, LIBNBD_SIZE_MINIMUM); block > 0)
      minimum = static_cast<std::uint32_t>(block);
    if (const std::int64_t block = nbd_get_block_size(nbd, LIBNBD_SIZE_MAXIMUM); block > 0)
      maximum = static_cast<std::uint32_t>(std::min<std::uint64_t>(static_cast<std::uint64_t>(block), longest_read));
  }
};

Handle::Handle(const Uri& uri, std::stop_token stop, std::chrono::milliseconds patience)
    : state_(std::make_unique<State>()) {
  State& s = *state_;
  s.nbd = nbd_create();
  if (s.nbd == nullptr)
    throw Error(Fault::unavailable, fmt::format("cannot prepare an NBD connection: {}", last_error()));
  // Buffers are used only after a read succeeded, so clearing them first is wasted work (measured: 30 % of our CPU).
  if (nbd_set_pread_initialize(s.nbd, false) == -1 ||
      nbd_set_uri_allow_transports(s.nbd, LIBNBD_ALLOW_TRANSPORT_TCP | LIBNBD_ALLOW_TRANSPORT_UNIX) == -1 ||
      nbd_add_meta_context(s.nbd, LIBNBD_CONTEXT_BASE_ALLOCATION) == -1)
    throw Error(Fault::bug, fmt::format("libnbd refused a setting: {}", last_error()));
  s.connect(uri, std::move(stop), patience);
  s.negotiated();
}

Handle::~Handle() {
  if (state_ == nullptr || state_->in_flight > 0 || dead()) return;
  // Say goodbye and see the server close its side, but do not let a hung one hold us.
  if (nbd_aio_disconnect(state_->nbd, 0) == -1) return;
  const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(2);
  while (!dead() && std::chrono::steady_clock::now() < give_up)
    if (nbd_poll(state_->nbd, static_cast<int>(slice.count())) == -1) return;
}

std::uint64_t Handle::bytes() const noexcept { return state_->bytes; }
bool Handle::can_extents() const noexcept { return state_->can_extents; }
std::uint32_t Handle::minimum_block() const noexcept { return state_->minimum; }
std::uint32_t Handle::maximum_read() const noexcept { return state_->maximum; }
int Handle::in_flight() const noexcept { return state_->in_flight; }

bool Handle::dead() const noexcept { return nbd_aio_is_dead(state_->nbd) == 1 || nbd_aio_is_closed(state_->nbd) == 1; }

void Handle::read(std::span<std::byte> buffer, std::uint64_t offset, Done done) {
  Request* request = state_->fresh();
  request->done = std::move(done);
  request->missing = buffer.size();
  const nbd_chunk_callback on_data{data_arrived, request, nullptr};
  const nbd_completion_callback on_end{completed, request, nullptr};
  if (nbd_aio_pread_structured(state_->nbd, buffer.data(), buffer.size(), offset, on_data, on_end, 0) == -1)
    state_->refused(request);
}

void Handle::extents(ByteRange range, ExtentsDone done) {
  Request* request = state_->fresh();
  request->extents_done = std::move(done);
  range.length = std::min(range.length, longest_status);
  request->range = range;
  request->missing = 0;
  request->extents.clear();
  const nbd_extent_callback on_extents{extents_arrived, request, nullptr};
  const nbd_completion_callback on_end{completed, request, nullptr};
  if (nbd_aio_block_status(state_->nbd, range.length, range.offset, on_extents, on_end, 0) == -1)
    state_->refused(request);
}

int Handle::fd() const noexcept { return nbd_aio_get_fd(state_->nbd); }

bool Handle::wants_read() const noexcept {
  return (nbd_aio_get_direction(state_->nbd) & LIBNBD_AIO_DIRECTION_READ) != 0;
}

bool Handle::wants_write() const noexcept {
  return (nbd_aio_get_direction(state_->nbd) & LIBNBD_AIO_DIRECTION_WRITE) != 0;
}

// A failure of these shows as dead() and as the failure of every request in flight; there is nothing else to tell.
void Handle::notify_readable() {
  if (wants_read()) nbd_aio_notify_read(state_->nbd);
}

void Handle::notify_writable() {
  if (wants_write()) nbd_aio_notify_write(state_->nbd);
}

bool Handle::deliver() {
  bool any = false;
  // A callback may start requests, some of which may finish (or be refused) at once: one round, then the caller
  // decides.
  std::vector<Request*> round;
  round.swap(state_->finished);
  state_->finished.reserve(state_->requests.size());
  for (Request* request : round) {
    any = true;
    const int error = request->error;
    Done done = std::exchange(request->done, nullptr);
    ExtentsDone extents_done = std::exchange(request->extents_done, nullptr);
    std::vector<Extent> extents = std::move(request->extents);
    request->extents.clear();
    --state_->in_flight;
    state_->idle.push_back(request);
    if (done) done(error);
    if (extents_done) extents_done(error, error == 0 ? std::move(extents) : std::vector<Extent>());
  }
  return any;
}

bool Handle::poll(std::chrono::milliseconds timeout) {
  if (deliver()) return true;
  if (dead()) return false;
  const int happened = nbd_poll(state_->nbd, static_cast<int>(timeout.count()));
  const bool delivered = deliver();
  return delivered || happened == 1;
}

void Handle::drain(std::chrono::milliseconds deadline) noexcept {
  const auto give_up = std::chrono::steady_clock::now() + deadline;
  while (state_->in_flight > 0) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(give_up - std::chrono::steady_clock::now());
    if (left.count() <= 0) return;
    if (!poll(std::min(left, slice)) && dead()) return;
  }
}

void Handle::give_up() noexcept {
  if (const int socket = fd(); socket >= 0) ::shutdown(socket, SHUT_RDWR);
}

}  // namespace vmferry::nbd
