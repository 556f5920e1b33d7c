// The lab as a test fixture: `vmferry-lab up` in a folder of its own, ended with the object; or, for a lab that takes a
// minute to start, the one that is up in the folder VMFERRY_TEST_LAB.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace vmferry::support {

class Lab {
 public:
  // Extra arguments for `vmferry-lab up` ("--esxi", "--writer-rate", "5"...). Throws std::runtime_error with its
  // output.
  explicit Lab(const std::vector<std::string>& arguments = {});
  ~Lab();
  Lab(const Lab&) = delete;
  Lab& operator=(const Lab&) = delete;

  const std::filesystem::path& directory() const { return directory_; }
  // Whether its OpenStack is the real services: no settings, no faults inside a service, and slower.
  bool real_openstack() const;
  // A value of lab.json by path: get("vcenter.endpoint"). Throws when absent.
  std::string get(const std::string& path) const;
  // The first line of a file named by lab.json: secret("vcenter.password_file").
  std::string secret(const std::string& path) const;
  // Talks to a control socket: control("vcenter", "POST", "/faults", R"({...})") returns the body (JSON).
  std::string control(const std::string& service, const std::string& method, const std::string& path,
                      const std::string& json = "") const;

 private:
  std::filesystem::path directory_;
  bool lent_ = false;
  std::string lab_json_;
};

// A folder that goes with the object.
class TemporaryDirectory {
 public:
  TemporaryDirectory();
  ~TemporaryDirectory();
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace vmferry::support
