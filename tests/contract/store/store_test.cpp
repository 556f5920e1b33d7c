// The journal against real SQLite and real process deaths.
#include "store/store.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <thread>
#include <vector>

#include "base/error.hpp"
#include "support/lab.hpp"
#include "support/thrown.hpp"

namespace vmferry::store {
namespace {

using support::thrown;

const job::JobCreated created{JobId{"job-1"}, "vcenter x", model::VmId{"vm-1"}, "web01", "/DC0/vm/web01", "cloud", ""};
const JobRow row{JobId{"job-1"}, "vcenter x", model::VmId{"vm-1"}, "web01", "cloud", 0};

class StoreTest : public ::testing::Test {
 protected:
  support::TemporaryDirectory directory_;
  SystemClock clock_;
};

TEST_F(StoreTest, FactsComeBackInOrderFromAnotherOpening) {
  {
    Store store(directory_.path(), clock_);
    store.create(row, created);
    auto journal = store.journal(row.job);
    for (int i = 1; i <= 50; ++i) journal->append(job::CycleBegan{i, false});
  }
  Store store(directory_.path(), clock_);
  const auto facts = store.journal(row.job)->facts();
  ASSERT_EQ(facts.size(), 51u);
  for (int i = 1; i <= 50; ++i) EXPECT_EQ(std::get<job::CycleBegan>(facts[static_cast<std::size_t>(i)].body).cycle, i);
  EXPECT_GT(facts.back().at, 0);
}

TEST_F(StoreTest, AFolderIsKnownByItsId) {
  support::TemporaryDirectory other;
  const std::string id = Store(directory_.path(), clock_).id();
  EXPECT_EQ(id.size(), 16u);
  EXPECT_EQ(Store(directory_.path(), clock_).id(), id);
  EXPECT_NE(Store(other.path(), clock_).id(), id);
}

TEST_F(StoreTest, OneOpenJobForAMachineAndTarget) {
  Store store(directory_.path(), clock_);
  EXPECT_FALSE(store.find(row.source, row.vm, row.target));
  store.create(row, created);
  EXPECT_EQ(store.find(row.source, row.vm, row.target)->job, row.job);
  JobRow second = row;
  second.job = JobId{"job-2"};
  EXPECT_THROW(store.create(second, created), Error);
  store.close(row.job);
  EXPECT_FALSE(store.find(row.source, row.vm, row.target));
  store.create(second, created);
  EXPECT_EQ(store.jobs().size(), 2u);
}

TEST_F(StoreTest, FilesArePrivate) {
  const auto inner = directory_.path() / "made";
  Store store(inner, clock_);
  store.create(row, created);
  struct stat s {};
  ASSERT_EQ(stat(inner.c_str(), &s), 0);
  EXPECT_EQ(s.st_mode & 0777, 0700u);
  for (const auto& entry : std::filesystem::directory_iterator(inner)) {
    ASSERT_EQ(stat(entry.path().c_str(), &s), 0);
    EXPECT_EQ(s.st_mode & 0077, 0u) << entry.path();
  }
}

// Every fact whose append() returned is there after kill -9.
TEST_F(StoreTest, AppendedMeansDurable) {
  { Store(directory_.path(), clock_).create(row, created); }
  int pipes[2];
  ASSERT_EQ(pipe(pipes), 0);
  const pid_t child = fork();
  if (child == 0) {
    Store store(directory_.path(), clock_);
    auto journal = store.journal(row.job);
    for (int i = 1;; ++i) {
      journal->append(job::CycleBegan{i, false});
      if (write(pipes[1], &i, sizeof i) != sizeof i) _exit(1);
    }
  }
  close(pipes[1]);
  int last = 0;
  while (last < 40 && read(pipes[0], &last, sizeof last) == sizeof last) {
  }
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  for (int more; read(pipes[0], &more, sizeof more) == sizeof more;) last = more;
  close(pipes[0]);
  Store store(directory_.path(), clock_);
  const auto facts = store.journal(row.job)->facts();
  ASSERT_GE(facts.size(), static_cast<std::size_t>(last) + 1);
  for (int i = 1; i <= last; ++i)
    EXPECT_EQ(std::get<job::CycleBegan>(facts[static_cast<std::size_t>(i)].body).cycle, i);
}

TEST_F(StoreTest, ManyThreadsAndStoresAppendWithoutLoss) {
  Store one(directory_.path(), clock_), two(directory_.path(), clock_);
  one.create(row, created);
  {
    std::vector<std::jthread> threads;
    for (Store* store : {&one, &one, &two})
      threads.emplace_back([store] {
        auto journal = store->journal(row.job);
        for (int i = 0; i < 25; ++i) journal->append(job::CycleEnded{i});
      });
  }
  EXPECT_EQ(two.journal(row.job)->facts().size(), 76u);
}

// A run and a `vmferry limits` beside it in a new folder: both make the journal, and each one's closing takes the log
// away that the other is about to open.
TEST_F(StoreTest, ManyProcessesOpenANewFolderAtOnce) {
  constexpr int processes = 6;
  for (int round = 0; round < 30; ++round) {
    const auto folder = directory_.path() / std::to_string(round);
    int gate[2];
    ASSERT_EQ(pipe(gate), 0);
    std::vector<pid_t> children;
    for (int i = 0; i < processes; ++i) {
      const pid_t child = fork();
      ASSERT_GE(child, 0);
      if (child == 0) {
        ::close(gate[1]);
        char nothing;
        (void)!read(gate[0], &nothing, 1);  // until all of them are there
        try {
          for (int again = 0; again < 3; ++again) (void)Store(folder, clock_).id();
          _exit(0);
        } catch (const std::exception& e) {
          (void)!write(2, e.what(), std::strlen(e.what()));
          (void)!write(2, "\n", 1);
          _exit(1);
        }
      }
      children.push_back(child);
    }
    ::close(gate[0]);
    ::close(gate[1]);
    for (const pid_t child : children) {
      int status = -1;
      ASSERT_EQ(waitpid(child, &status, 0), child);
      EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "round " << round;
    }
  }
}

// POSIX gives up all of a process' locks on a file when the process closes any descriptor of it. Another process would
// then be the last to leave the journal, and would take its log away under the feet of this one.
TEST_F(StoreTest, ASecondOpeningInAProcessDoesNotGiveTheFirstOnesLocksUp) {
  Store first(directory_.path(), clock_);
  first.create(row, created);
  auto journal = first.journal(row.job);
  journal->append(job::CycleBegan{1, false});
  EXPECT_FALSE(Store(directory_.path(), clock_).id().empty());
  const std::string other = fmt::format("sqlite3 '{}' 'SELECT count(*) FROM fact' >'{}'", first.file().string(),
                                        (directory_.path() / "counted").string());
  ASSERT_EQ(std::system(other.c_str()), 0);
  EXPECT_TRUE(std::filesystem::exists(first.file().string() + "-wal"));
  journal->append(job::CycleEnded{1});
  EXPECT_EQ(Store(directory_.path(), clock_).journal(row.job)->facts().size(), 3u);
}

TEST_F(StoreTest, ANewerSchemaIsRefusedInWords) {
  { Store store(directory_.path(), clock_); }
  sqlite3* db = nullptr;
  ASSERT_EQ(sqlite3_open((directory_.path() / "journal.sqlite").c_str(), &db), SQLITE_OK);
  ASSERT_EQ(sqlite3_exec(db, "PRAGMA user_version=99", nullptr, nullptr, nullptr), SQLITE_OK);
  sqlite3_close(db);
  const Error e = thrown([&] { Store store(directory_.path(), clock_); });
  EXPECT_EQ(e.fault(), Fault::unsupported);
  EXPECT_NE(std::string(e.what()).find("newer vmferry"), std::string::npos);
}

// As the first schema wrote it, with a job in it.
TEST_F(StoreTest, AnOlderSchemaIsLifted) {
  sqlite3* db = nullptr;
  ASSERT_EQ(sqlite3_open((directory_.path() / "journal.sqlite").c_str(), &db), SQLITE_OK);
  ASSERT_EQ(
      sqlite3_exec(
          db,
          "CREATE TABLE job (id TEXT PRIMARY KEY, source TEXT NOT NULL, vm TEXT NOT NULL, vm_name TEXT NOT NULL,"
          " target TEXT NOT NULL, created_at INTEGER NOT NULL, closed INTEGER NOT NULL DEFAULT 0) STRICT;"
          "CREATE UNIQUE INDEX job_open ON job (source, vm, target) WHERE closed = 0;"
          "CREATE TABLE fact (job TEXT NOT NULL REFERENCES job (id), number INTEGER NOT NULL, at INTEGER NOT NULL,"
          " body TEXT NOT NULL, PRIMARY KEY (job, number)) STRICT, WITHOUT ROWID;"
          "INSERT INTO job VALUES ('job-1', 'vcenter x', 'vm-1', 'web01', 'cloud', 7, 0);"
          "PRAGMA user_version=1;",
          nullptr, nullptr, nullptr),
      SQLITE_OK);
  sqlite3_close(db);
  std::string id;
  {
    Store store(directory_.path(), clock_);
    EXPECT_EQ(store.find(row.source, row.vm, row.target)->job, row.job);
    id = store.id();
    EXPECT_EQ(id.size(), 16u);
    store.journal(row.job)->append(job::CycleBegan{1, false});
  }
  Store again(directory_.path(), clock_);
  EXPECT_EQ(again.id(), id);
  EXPECT_EQ(again.journal(row.job)->facts().size(), 1u);
}

TEST_F(StoreTest, ADamagedFileIsNamed) {
  std::ofstream(directory_.path() / "journal.sqlite") << std::string(8192, 'x');
  const Error e = thrown([&] { Store store(directory_.path(), clock_); });
  EXPECT_EQ(e.fault(), Fault::data);
  EXPECT_NE(std::string(e.what()).find("journal.sqlite"), std::string::npos);
}

TEST_F(StoreTest, AnImpossibleFolderIsAConfigurationError) {
  std::ofstream(directory_.path() / "file") << "x";
  EXPECT_EQ(thrown([&] { Store store(directory_.path() / "file", clock_); }).fault(), Fault::config);
  EXPECT_EQ(thrown([&] { Store store(directory_.path() / "file" / "below", clock_); }).fault(), Fault::config);
}

TEST_F(StoreTest, TheSecondRunIsRefusedWithTheFirstsPid) {
  auto first = std::make_unique<JobLock>(directory_.path(), "vm-1");
  const Error e = thrown([&] { JobLock second(directory_.path(), "vm-1"); });
  EXPECT_EQ(e.fault(), Fault::conflict);
  EXPECT_NE(std::string(e.what()).find("pid " + std::to_string(getpid())), std::string::npos) << e.what();
  JobLock other(directory_.path(), "vm-2");
  first.reset();
  JobLock again(directory_.path(), "vm-1");
}

}  // namespace
}  // namespace vmferry::store
