// What people wrote on a machine to find it again: custom attributes (SOAP) and tags (the REST API, vCenter only).
#pragma once

#include <map>
#include <stop_token>
#include <string>
#include <vector>

#include "http/http.hpp"
#include "model/vm.hpp"
#include "vsphere/session.hpp"

namespace vmferry::vsphere {

// Name and value of each custom attribute that has one.
std::map<std::string, std::string> custom_attributes(Session& session, const model::VmId& vm, std::stop_token stop);

// The names of its tags by category. Logs in to the REST API of `login.endpoint` (/rest of vSphere 6.5 and later, else
// /api) and out again. Error(unsupported) when there is none, as on an ESXi host.
std::map<std::string, std::vector<std::string>> tags(http::Transport& transport, const SessionOptions& login,
                                                     const model::VmId& vm, std::stop_token stop);

}  // namespace vmferry::vsphere
