// The journal against real SQLite and real process deaths.
#include "store/store.hpp"

#include <gtest/gtest.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <thread>

#include "base/error.hpp"
#include "support/lab.hpp"

namespace vmferry::store {
namespace {

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

template <class F>
Error error_of(F act) {
  try {
    act();
  } catch (const Error& e) {
    return e;
  }
  ADD_FAILURE() << "no error";
  return Error(Fault::bug, "");
}

TEST_F(StoreTest, ANewerSchemaIsRefusedInWords) {
  { Store store(directory_.path(), clock_); }
  sqlite3* db = nullptr;
  ASSERT_EQ(sqlite3_open((directory_.path() / "journal.sqlite").c_str(), &db), SQLITE_OK);
  ASSERT_EQ(sqlite3_exec(db, "PRAGMA user_version=99", nullptr, nullptr, nullptr), SQLITE_OK);
  sqlite3_close(db);
  const Error e = error_of([&] { Store store(directory_.path(), clock_); });
  EXPECT_EQ(e.fault(), Fault::unsupported);
  EXPECT_NE(std::string(e.what()).find("newer vmferry"), std::string::npos);
}

TEST_F(StoreTest, ADamagedFileIsNamed) {
  std::ofstream(directory_.path() / "journal.sqlite") << std::string(8192, 'x');
  const Error e = error_of([&] { Store store(directory_.path(), clock_); });
  EXPECT_EQ(e.fault(), Fault::data);
  EXPECT_NE(std::string(e.what()).find("journal.sqlite"), std::string::npos);
}

TEST_F(StoreTest, AnImpossibleFolderIsAConfigurationError) {
  std::ofstream(directory_.path() / "file") << "x";
  EXPECT_EQ(error_of([&] { Store store(directory_.path() / "file", clock_); }).fault(), Fault::config);
  EXPECT_EQ(error_of([&] { Store store(directory_.path() / "file" / "below", clock_); }).fault(), Fault::config);
}

TEST_F(StoreTest, TheSecondRunIsRefusedWithTheFirstsPid) {
  auto first = std::make_unique<JobLock>(directory_.path(), "vm-1");
  const Error e = error_of([&] { JobLock second(directory_.path(), "vm-1"); });
  EXPECT_EQ(e.fault(), Fault::conflict);
  EXPECT_NE(std::string(e.what()).find("pid " + std::to_string(getpid())), std::string::npos) << e.what();
  JobLock other(directory_.path(), "vm-2");
  first.reset();
  JobLock again(directory_.path(), "vm-1");
}

}  // namespace
}  // namespace vmferry::store
