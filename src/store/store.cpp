// The journal in SQLite. Facts are rows that are only ever inserted; a fact is on disk when append() returns
// (WAL with synchronous=FULL: https://www.sqlite.org/pragma.html#pragma_synchronous).
#include "store/store.hpp"

#include <SQLiteCpp/SQLiteCpp.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sqlite3.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>

#include "base/error.hpp"

namespace vmferry::store {

namespace {

// Each entry lifts the schema by one version; entries are never edited once released, only added.
constexpr const char* migrations[] = {
    // 1
    "CREATE TABLE job (id TEXT PRIMARY KEY, source TEXT NOT NULL, vm TEXT NOT NULL, vm_name TEXT NOT NULL, target TEXT NOT NULL,"
    " created_at INTEGER NOT NULL, closed INTEGER NOT NULL DEFAULT 0) STRICT;"
    "CREATE UNIQUE INDEX job_open ON job (source, vm, target) WHERE closed = 0;"
    "CREATE TABLE fact (job TEXT NOT NULL REFERENCES job (id), number INTEGER NOT NULL, at INTEGER NOT NULL, body TEXT NOT NULL,"
    " PRIMARY KEY (job, number)) STRICT, WITHOUT ROWID;",
    // 2
    "CREATE TABLE folder (id TEXT NOT NULL) STRICT;"
    "INSERT INTO folder VALUES (lower(hex(randomblob(8))));"};
constexpr int newest = static_cast<int>(std::size(migrations));

constexpr const char* journal_name = "journal.sqlite";

// SQLite's own errors, in words that name the file and the remedy.
[[noreturn]] void explain(const std::filesystem::path& file, const SQLite::Exception& e) {
  const int code = e.getErrorCode();
  if (code == SQLITE_FULL)
    throw Error(
        Fault::quota,
        fmt::format("no space left for the journal {}: free some space on that file system and run the command again",
                    file.string()));
  if (code == SQLITE_READONLY || code == SQLITE_CANTOPEN || code == SQLITE_PERM)
    throw Error(Fault::config,
                fmt::format("the journal {} cannot be written ({}): choose a writable folder with --state-dir",
                            file.string(), e.what()));
  if (code == SQLITE_NOTADB || code == SQLITE_CORRUPT)
    throw Error(
        Fault::data,
        fmt::format("the journal {} is damaged ({}): put a backup in its place, or move it away and start again "
                    "(the volumes' own metadata is then used)",
                    file.string(), e.what()));
  if (code == SQLITE_BUSY)
    throw Error(
        Fault::unavailable,
        fmt::format("the journal {} is locked by another program for too long; run the command again", file.string()));
  throw Error(Fault::unavailable, fmt::format("the journal {} failed: {}", file.string(), e.what()));
}

}  // namespace

void make_private_directory(const std::filesystem::path& directory) {
  // "a/b/" names b; its parent is not "a/b".
  const std::filesystem::path named = directory.has_filename() ? directory : directory.parent_path();
  std::error_code problem;
  if (!std::filesystem::exists(named, problem)) {
    if (named.has_parent_path()) std::filesystem::create_directories(named.parent_path(), problem);
    if (!problem && ::mkdir(named.c_str(), 0700) != 0 && errno != EEXIST)
      problem.assign(errno, std::generic_category());
    if (problem)
      throw Error(Fault::config, fmt::format("cannot make the state folder {} ({}): choose another with --state-dir",
                                             directory.string(), problem.message()));
  }
  if (!std::filesystem::is_directory(directory))
    throw Error(Fault::config, fmt::format("{} is not a folder: choose another with --state-dir", directory.string()));
  if (::access(directory.c_str(), W_OK | X_OK) != 0)
    throw Error(Fault::config,
                fmt::format("the state folder {} cannot be written ({}): choose another with --state-dir",
                            directory.string(), std::strerror(errno)));
}

namespace {

// The file exists with the right mode before SQLite sees it, so that no moment of another mode exists; SQLite gives its
// -wal and -shm files the same mode. One that is there is not opened: closing it would give up the locks that this
// process has on it (https://www.sqlite.org/howtocorrupt.html, 2.2), and others would take the log away that is still
// written to.
void make_private_file(const std::filesystem::path& file) {
  const int fd = ::open(file.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd >= 0)
    ::close(fd);
  else if (errno != EEXIST)
    throw Error(errno == ENOSPC ? Fault::quota : Fault::config,
                fmt::format("cannot make {} ({}): choose a writable folder with --state-dir", file.string(),
                            std::strerror(errno)));
}

}  // namespace

bool has_journal(const std::filesystem::path& directory) {
  std::error_code unseen;
  return std::filesystem::status(directory / journal_name, unseen).type() != std::filesystem::file_type::not_found;
}

// For another process to end what it does with the journal.
constexpr std::chrono::milliseconds patience{20000};

struct Store::State {
  std::filesystem::path file;
  Clock& clock;
  std::mutex mutex;  // one connection, used by one thread at a time
  std::unique_ptr<SQLite::Database> db;

  explicit State(std::filesystem::path f, Clock& c) : file(std::move(f)), clock(c) {}

  template <class F>
  auto guarded(F act) {
    std::scoped_lock lock(mutex);
    try {
      return act(*db);
    } catch (const SQLite::Exception& e) {
      explain(file, e);
    }
  }

  // Where two make a journal at once, or one opens it while the last other one takes its log away, SQLite refuses
  // without waiting: https://www.sqlite.org/c3ref/busy_handler.html, https://www.sqlite.org/wal.html#busy. Nobody holds
  // a lock for longer than a statement, so that the next try can succeed.
  void open() {
    const auto give_up = clock.mono() + patience;
    for (;;) {
      try {
        return try_to_open();
      } catch (const SQLite::Exception& e) {
        if (e.getErrorCode() != SQLITE_BUSY || clock.mono() >= give_up) throw;
      }
      clock.sleep(std::chrono::milliseconds(20), {});
    }
  }

  void try_to_open() {
    db = std::make_unique<SQLite::Database>(file.string(), SQLite::OPEN_READWRITE | SQLite::OPEN_CREATE,
                                            static_cast<int>(patience.count()));
    db->exec("PRAGMA journal_mode=WAL");
    db->exec("PRAGMA synchronous=FULL");
    db->exec("PRAGMA foreign_keys=ON");
    // Two processes may start at once: the version is read again under the write lock.
    SQLite::Transaction transaction(*db, SQLite::TransactionBehavior::IMMEDIATE);
    int version = db->execAndGet("PRAGMA user_version").getInt();
    if (version > newest)
      throw Error(
          Fault::unsupported,
          fmt::format("the journal {} was written by a newer vmferry (schema {}, this one knows {}): use that version",
                      file.string(), version, newest));
    for (; version < newest; ++version) db->exec(migrations[version]);
    db->exec(fmt::format("PRAGMA user_version={}", newest));
    transaction.commit();
  }
};

namespace {

JobRow row_of(SQLite::Statement& q) {
  return {JobId{q.getColumn(0).getString()}, q.getColumn(1).getString(), model::VmId{q.getColumn(2).getString()},
          q.getColumn(3).getString(),        q.getColumn(4).getString(), q.getColumn(5).getInt64()};
}
constexpr const char* job_columns = "id, source, vm, vm_name, target, created_at";

}  // namespace

Store::Store(const std::filesystem::path& directory, Clock& clock) {
  make_private_directory(directory);
  const std::filesystem::path file = directory / journal_name;
  make_private_file(file);
  state_ = std::make_unique<State>(file, clock);
  try {
    state_->open();
  } catch (const SQLite::Exception& e) {
    explain(file, e);
  }
}

Store::~Store() = default;

const std::filesystem::path& Store::file() const noexcept { return state_->file; }

std::string Store::id() const {
  return state_->guarded([](SQLite::Database& db) { return db.execAndGet("SELECT id FROM folder").getString(); });
}

std::vector<JobRow> Store::jobs() const {
  return state_->guarded([&](SQLite::Database& db) {
    std::vector<JobRow> rows;
    SQLite::Statement q(db, fmt::format("SELECT {} FROM job ORDER BY created_at, id", job_columns));
    while (q.executeStep()) rows.push_back(row_of(q));
    return rows;
  });
}

std::optional<JobRow> Store::find(const std::string& source, const model::VmId& vm, const std::string& target) const {
  return state_->guarded([&](SQLite::Database& db) -> std::optional<JobRow> {
    SQLite::Statement q(
        db, fmt::format("SELECT {} FROM job WHERE source = ? AND vm = ? AND target = ? AND closed = 0", job_columns));
    q.bind(1, source);
    q.bind(2, vm.value);
    q.bind(3, target);
    if (!q.executeStep()) return std::nullopt;
    return row_of(q);
  });
}

void Store::create(const JobRow& row, const job::JobCreated& fact) {
  state_->guarded([&](SQLite::Database& db) {
    SQLite::Transaction transaction(db, SQLite::TransactionBehavior::IMMEDIATE);
    const std::int64_t now = now_ms(state_->clock);
    SQLite::Statement insert(db,
                             "INSERT INTO job (id, source, vm, vm_name, target, created_at) VALUES (?, ?, ?, ?, ?, ?)");
    insert.bind(1, row.job.value);
    insert.bind(2, row.source);
    insert.bind(3, row.vm.value);
    insert.bind(4, row.vm_name);
    insert.bind(5, row.target);
    insert.bind(6, row.created_at != 0 ? row.created_at : now);
    insert.exec();
    SQLite::Statement first(db, "INSERT INTO fact (job, number, at, body) VALUES (?, 1, ?, ?)");
    first.bind(1, row.job.value);
    first.bind(2, now);
    first.bind(3, job::encode(fact));
    first.exec();
    transaction.commit();
    return 0;
  });
}

void Store::close(const JobId& id) {
  state_->guarded([&](SQLite::Database& db) {
    SQLite::Statement update(db, "UPDATE job SET closed = 1 WHERE id = ?");
    update.bind(1, id.value);
    return update.exec();
  });
}

namespace {

class SqliteJournal final : public job::Journal {
 public:
  SqliteJournal(std::function<void(const job::Body&)> append, std::function<std::vector<job::Fact>()> facts)
      : append_(std::move(append)), facts_(std::move(facts)) {}
  void append(const job::Body& body) override { append_(body); }
  std::vector<job::Fact> facts() const override { return facts_(); }

 private:
  std::function<void(const job::Body&)> append_;
  std::function<std::vector<job::Fact>()> facts_;
};

}  // namespace

std::unique_ptr<job::Journal> Store::journal(const JobId& id) {
  State* state = state_.get();
  return std::make_unique<SqliteJournal>(
      [state, id](const job::Body& body) {
        state->guarded([&](SQLite::Database& db) {
          SQLite::Transaction transaction(db, SQLite::TransactionBehavior::IMMEDIATE);
          SQLite::Statement insert(
              db,
              "INSERT INTO fact (job, number, at, body) SELECT ?1, coalesce(max(number), 0) + 1, ?2, ?3 FROM fact WHERE job = ?1");
          insert.bind(1, id.value);
          insert.bind(2, now_ms(state->clock));
          insert.bind(3, job::encode(body));
          insert.exec();
          transaction.commit();
          return 0;
        });
      },
      [state, id] {
        return state->guarded([&](SQLite::Database& db) {
          std::vector<job::Fact> facts;
          SQLite::Statement q(db, "SELECT at, body FROM fact WHERE job = ? ORDER BY number");
          q.bind(1, id.value);
          while (q.executeStep()) facts.push_back({q.getColumn(0).getInt64(), job::decode(q.getColumn(1).getString())});
          return facts;
        });
      });
}

namespace {

std::filesystem::path lock_file(const std::filesystem::path& directory, const std::string& key) {
  std::string name;
  for (const char c : key) name += std::isalnum(static_cast<unsigned char>(c)) ? c : '-';
  return directory / (name + ".lock");
}

// Another process that only looks whether the lock is held has it for a moment (is_locked).
constexpr std::chrono::milliseconds glance{1500}, between_tries{50};

bool locked_within(int fd, std::chrono::milliseconds patience) {
  const auto give_up = std::chrono::steady_clock::now() + patience;
  while (::flock(fd, LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK && errno != EINTR) return false;
    if (std::chrono::steady_clock::now() >= give_up) return false;
    std::this_thread::sleep_for(between_tries);
  }
  return true;
}

}  // namespace

bool is_locked(const std::filesystem::path& directory, const std::string& key) {
  const int fd = ::open(lock_file(directory, key).c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return errno != ENOENT;
  const bool held = ::flock(fd, LOCK_SH | LOCK_NB) != 0;
  ::close(fd);
  return held;
}

JobLock::JobLock(const std::filesystem::path& directory, const std::string& key) {
  make_private_directory(directory);
  const std::filesystem::path file = lock_file(directory, key);
  fd_ = ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd_ < 0)
    throw Error(Fault::config, fmt::format("cannot open {} ({}): choose a writable folder with --state-dir",
                                           file.string(), std::strerror(errno)));
  if (!locked_within(fd_, glance)) {
    char holder[256] = {};
    const ssize_t length = ::pread(fd_, holder, sizeof holder - 1, 0);
    ::close(std::exchange(fd_, -1));
    throw Error(Fault::conflict,
                fmt::format("another vmferry is working on this machine ({}); wait for it to end, or stop it first",
                            length > 0 ? std::string(holder, static_cast<std::size_t>(length))
                                       : "its process id is not known"));
  }
  char host[256] = "unknown";
  ::gethostname(host, sizeof host - 1);
  const std::string mine = fmt::format("pid {} on {}", ::getpid(), host);
  // The text is only for people; the lock itself is the kernel's and goes with the process.
  if (::ftruncate(fd_, 0) != 0 || ::pwrite(fd_, mine.data(), mine.size(), 0) < 0) {
    const int problem = errno;
    ::close(std::exchange(fd_, -1));
    throw Error(problem == ENOSPC ? Fault::quota : Fault::config,
                fmt::format("cannot write {} ({})", file.string(), std::strerror(problem)));
  }
}

JobLock::~JobLock() {
  if (fd_ >= 0) ::close(fd_);
}

std::filesystem::path default_directory() {
  const auto set = [](const char* name) {
    const char* value = std::getenv(name);
    return value && *value ? std::filesystem::path(value) : std::filesystem::path();
  };
  if (const auto own = set("VMFERRY_STATE_DIR"); !own.empty()) return own;
  if (::geteuid() == 0) return "/var/lib/vmferry";
  if (const auto xdg = set("XDG_STATE_HOME"); !xdg.empty()) return xdg / "vmferry";
  if (const auto home = set("HOME"); !home.empty()) return home / ".local/state/vmferry";
  throw Error(Fault::config, "no place for the state: set HOME or give --state-dir DIR");
}

}  // namespace vmferry::store
