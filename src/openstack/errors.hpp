// What a refused call means: status and body become an Error whose Fault says who can act, with the service's own
// words, the numbers of a quota, and the request id that an operator of the cloud can look up.
#pragma once

#include <exception>
#include <string>

#include "base/error.hpp"
#include "http/http.hpp"

namespace vmferry::openstack {

// The message inside an error body of Keystone, Nova, Cinder, Neutron or a gateway's HTML; never empty.
std::string error_text(const http::Response& response);
// The service's own word for it: "overLimit", "itemNotFound", "MacAddressInUse"; may be empty.
std::string error_name(const http::Response& response);
// "" or "req-..."
std::string request_id(const http::Response& response);

// A call that was answered, with a status that is not success.
class Refused : public Error {
 public:
  Refused(Fault fault, const std::string& message, std::string name, int status)
      : Error(fault, message, std::move(name)), status_(status) {}
  int status() const noexcept { return status_; }

 private:
  int status_;
};

// `service` "Cinder", `doing` "create volume 'web01'".
Refused refusal(const std::string& service, const std::string& doing, const http::Response& response);

// Whether a refused or broken call that changes an attachment is worth another look: the state may be about to change,
// or the act was done.
bool worth_another_look(const std::exception_ptr& failure);

}  // namespace vmferry::openstack
