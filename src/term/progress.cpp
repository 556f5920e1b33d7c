// The three ways to show a job.
#include "term/progress.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <condition_variable>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>
#include <vector>

#include "term/text.hpp"

namespace vmferry::term {

void Pace::add(double seconds, std::uint64_t done) {
  if (!samples_.empty() && done < samples_.back().done) samples_.clear();  // something else is read by now
  if (!samples_.empty() && seconds - samples_.back().at < 0.2) {
    if (samples_.size() > 1) {
      samples_.back().done = done;
      return;
    }
  }
  samples_.push_back({seconds, done});
  while (samples_.size() > 2 && samples_.back().at - samples_.front().at > 10) samples_.erase(samples_.begin());
}

double Pace::bytes_per_second() const {
  if (samples_.size() < 2) return 0;
  const double time = samples_.back().at - samples_.front().at;
  return time <= 0 ? 0 : static_cast<double>(samples_.back().done - samples_.front().done) / time;
}

double Pace::seconds_left(std::uint64_t total) const {
  const double rate = bytes_per_second();
  if (rate <= 0 || samples_.back().done > total) return -1;
  return static_cast<double>(total - samples_.back().done) / rate;
}

namespace {

struct DiskView {
  std::string label;
  std::uint64_t done = 0;
  std::uint64_t total = 0;
  bool finished = false;
  double last_line = 0;
  int last_tenth = 0;
  Pace pace;
};

void write_all(int fd, const std::string& text) noexcept {
  std::size_t at = 0;
  while (at < text.size()) {
    const ssize_t n = ::write(fd, text.data() + at, text.size() - at);
    if (n < 0 && errno != EINTR) return;  // nobody listens any more; the job matters more
    if (n > 0) at += static_cast<std::size_t>(n);
  }
}

std::string finished_sentence(std::string_view label, bool full, std::uint64_t read, std::uint64_t written,
                              double seconds) {
  return fmt::format("  {}: {} copied, {} read in {}, {} written", label, full ? "everything" : "changes",
                     human_bytes(read), human_duration(seconds), human_bytes(written));
}

double since_epoch(Clock& clock) { return std::chrono::duration<double>(clock.mono().time_since_epoch()).count(); }

// Shared by bars and lines: the log, and sentences.
class Watching : public job::Observer {
 public:
  Watching(int fd, Clock& clock, log::Log& log) : fd_(fd), clock_(clock), log_(log) {}

  void step_started(std::string_view step) noexcept override { log_.info("step started", {{"step", step}}); }
  void step_finished(std::string_view step, const std::exception* problem) noexcept override {
    if (problem)
      log_.error("step failed", {{"step", step}, {"problem", problem->what()}});
    else
      log_.info("step finished", {{"step", step}});
  }
  void disk_finished(model::DiskKey key, std::string_view label, bool full, std::uint64_t read, std::uint64_t written,
                     double seconds) noexcept override {
    try {
      const std::string sentence = finished_sentence(label, full, read, written, seconds);
      log_.info(sentence);
      {
        std::scoped_lock lock(mutex_);
        disks_[key].finished = true;
      }
      line(sentence);
    } catch (const std::exception&) {
      // Out of memory while talking: the copy itself is fine.
    }
  }
  void said(std::string_view sentence) noexcept override {
    log_.info(sentence);
    line(std::string(sentence));
  }
  void warned(std::string_view sentence) noexcept override {
    log_.warning(sentence);
    line(fmt::format("warning: {}", sentence));
  }

 protected:
  virtual void line(const std::string& text) noexcept = 0;

  int fd_;
  Clock& clock_;
  log::Log& log_;
  std::mutex mutex_;
  std::map<model::DiskKey, DiskView> disks_;
};

class Lines final : public Watching {
 public:
  using Watching::Watching;
  void step_started(std::string_view step) noexcept override {
    Watching::step_started(step);
    line(fmt::format("{} ...", step));
  }
  void copied(model::DiskKey key, std::string_view label, std::uint64_t done, std::uint64_t total) noexcept override {
    std::string text;
    {
      std::scoped_lock lock(mutex_);
      DiskView& disk = disks_[key];
      if (done < disk.done) disk = {};  // another cycle
      const double now = since_epoch(clock_);
      disk.pace.add(now, done);
      disk.done = done;
      if (disk.last_line == 0) disk.last_line = now;
      // A line every ten seconds is enough for a log, and tells a person that it lives.
      if (now - disk.last_line < 10 || total == 0) return;
      disk.last_line = now;
      const double left = disk.pace.seconds_left(total);
      text =
          fmt::format("{}: {} of {} ({} %), {}{}", label, human_bytes(done), human_bytes(total), done * 100 / total,
                      human_rate(disk.pace.bytes_per_second()), left < 0 ? "" : ", " + human_duration(left) + " left");
    }
    line(text);
  }

 private:
  void line(const std::string& text) noexcept override {
    std::scoped_lock lock(mutex_);
    write_all(fd_, text + "\n");
  }
};

class Bars final : public Watching {
 public:
  Bars(int fd, Clock& clock, log::Log& log)
      : Watching(fd, clock, log),
        colour_(screen_of(fd).colour),
        painter_([this](std::stop_token stop) { paint_forever(stop); }) {}
  ~Bars() override {
    painter_.request_stop();
    painter_.join();
    std::scoped_lock lock(mutex_);
    finish_step();
    repaint({});
  }
  void step_started(std::string_view step) noexcept override {
    Watching::step_started(step);
    std::scoped_lock lock(mutex_);
    disks_.clear();
    step_ = step;
    step_began_ = since_epoch(clock_);
    failed_ = false;
    repaint({});
  }
  void step_finished(std::string_view step, const std::exception* problem) noexcept override {
    Watching::step_finished(step, problem);
    std::scoped_lock lock(mutex_);
    failed_ = problem != nullptr;
    finish_step();
  }
  void copied(model::DiskKey key, std::string_view label, std::uint64_t done, std::uint64_t total) noexcept override {
    std::scoped_lock lock(mutex_);
    DiskView& disk = disks_[key];
    disk.label = label;
    disk.done = done;
    disk.total = total;
    disk.pace.add(since_epoch(clock_), done);
  }

 private:
  void line(const std::string& text) noexcept override {
    std::scoped_lock lock(mutex_);
    repaint(text);
  }

  // A finished step becomes one line that scrolls away; the live part below it starts anew.
  void finish_step() noexcept {
    if (step_.empty()) return;
    const double took = since_epoch(clock_) - step_began_;
    const std::string sign = failed_ ? "✗" : "✓";
    const std::string mark = colour_ ? fmt::format("\x1b[{}m{}\x1b[0m", failed_ ? 31 : 32, sign) : sign;
    const std::string text =
        fmt::format("{} {}{}", mark, step_, took >= 0.95 ? fmt::format("  ({})", human_duration(took)) : "");
    step_.clear();
    disks_.clear();
    repaint(text);
  }

  // Wipes the live lines, prints `above` for good, draws the live lines again. mutex_ is held.
  void repaint(const std::string& above) noexcept {
    try {
      std::string out;
      if (painted_ > 0) out += fmt::format("\x1b[{}A", painted_);
      out += "\r\x1b[J";
      const Screen screen = screen_of(fd_);
      if (!above.empty()) out += wrapped(above, screen.columns) + "\n";
      painted_ = 0;
      const auto width = static_cast<std::size_t>(screen.columns > 1 ? screen.columns - 1 : 79);
      if (!step_.empty()) {
        const double took = since_epoch(clock_) - step_began_;
        out += shortened(fmt::format("… {}{}", step_, took >= 2 ? fmt::format("  ({})", human_duration(took)) : ""),
                         width) +
               "\n";
        ++painted_;
      }
      for (const auto& [key, disk] : disks_) {
        if (disk.finished) continue;
        out += bar(disk, width) + "\n";
        ++painted_;
      }
      write_all(fd_, out);
    } catch (const std::exception&) {
      // See disk_finished().
    }
  }

  static std::string bar(const DiskView& disk, std::size_t width) {
    if (disk.total == 0) return shortened("  " + disk.label + "  preparing", width);
    const double share = std::min(1.0, static_cast<double>(disk.done) / static_cast<double>(disk.total));
    const double left = disk.pace.seconds_left(disk.total);
    // Columns of one width, so that the bars of several disks stand below each other and do not jump.
    const std::string head = fmt::format("  {:<20} ", disk.label);
    std::string tail =
        fmt::format(" {:3.0f} % {:>9} {:>11}  {}", share * 100, human_bytes(disk.done),
                    human_rate(disk.pace.bytes_per_second()), left < 0 ? "" : human_duration(left) + " left");
    constexpr std::size_t widest_tail = 46;
    if (width < width_of(head) + widest_tail + 6) return shortened(head + tail, width);
    const std::size_t cells = std::min<std::size_t>(30, width - width_of(head) - widest_tail);
    const auto full = static_cast<std::size_t>(share * static_cast<double>(cells));
    std::string drawn;
    for (std::size_t i = 0; i < cells; ++i) drawn += i < full ? "█" : "░";
    return head + drawn + tail;
  }

  void paint_forever(std::stop_token stop) {
    while (clock_.sleep(std::chrono::milliseconds(200), stop)) {
      std::scoped_lock lock(mutex_);
      if (!step_.empty()) repaint({});
    }
  }

  std::string step_;
  double step_began_ = 0;
  bool failed_ = false;
  int painted_ = 0;
  const bool colour_;
  std::jthread painter_;  // last: it uses everything above
};

class Json final : public job::Observer {
 public:
  Json(int fd, Clock& clock, log::Log& log) : fd_(fd), clock_(clock), log_(log) {}
  void step_started(std::string_view step) noexcept override {
    log_.info("step started", {{"step", step}});
    emit({{"event", "step_started"}, {"step", step}});
  }
  void step_finished(std::string_view step, const std::exception* problem) noexcept override {
    if (problem) log_.error("step failed", {{"step", step}, {"problem", problem->what()}});
    nlohmann::json event = {{"event", "step_finished"}, {"step", step}, {"ok", problem == nullptr}};
    if (problem) event["problem"] = problem->what();
    emit(std::move(event));
  }
  void copied(model::DiskKey key, std::string_view, std::uint64_t done, std::uint64_t total) noexcept override {
    {
      std::scoped_lock lock(mutex_);
      const double now = since_epoch(clock_);
      double& last = last_[key];
      if (now - last < 1 && done != total) return;
      last = now;
    }
    emit({{"event", "progress"}, {"disk", key.value}, {"done", done}, {"total", total}});
  }
  void disk_finished(model::DiskKey key, std::string_view label, bool full, std::uint64_t read, std::uint64_t written,
                     double seconds) noexcept override {
    log_.info(finished_sentence(label, full, read, written, seconds));
    emit({{"event", "disk_finished"},
          {"disk", key.value},
          {"label", label},
          {"full", full},
          {"read", read},
          {"written", written},
          {"seconds", seconds}});
  }
  void said(std::string_view sentence) noexcept override {
    log_.info(sentence);
    emit({{"event", "said"}, {"text", sentence}});
  }
  void warned(std::string_view sentence) noexcept override {
    log_.warning(sentence);
    emit({{"event", "warned"}, {"text", sentence}});
  }

 private:
  void emit(nlohmann::json event) noexcept {
    try {
      event["at"] = now_ms(clock_);
      // Names from outside may hold bytes that are not UTF-8: replaced, not thrown at.
      const std::string text = event.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
      std::scoped_lock lock(mutex_);
      write_all(fd_, text);
    } catch (const std::exception&) {
      // See Watching::disk_finished().
    }
  }

  int fd_;
  Clock& clock_;
  log::Log& log_;
  std::mutex mutex_;
  std::map<model::DiskKey, double> last_;
};

}  // namespace

std::unique_ptr<job::Observer> observer(Style style, int fd, Clock& clock, log::Log& log) {
  switch (style) {
    case Style::bars:
      return std::make_unique<Bars>(fd, clock, log);
    case Style::json:
      return std::make_unique<Json>(fd, clock, log);
    case Style::lines:
      break;
  }
  return std::make_unique<Lines>(fd, clock, log);
}

}  // namespace vmferry::term
