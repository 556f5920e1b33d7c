// Where a job's facts are kept. append() returns only when the fact survives a power cut.
#pragma once

#include <vector>

#include "job/fact.hpp"

namespace vmferry::job {

class Journal {
 public:
  virtual ~Journal() = default;
  virtual void append(const Body& body) = 0;  // thread-safe; stamps the time
  virtual std::vector<Fact> facts() const = 0;
};

}  // namespace vmferry::job
