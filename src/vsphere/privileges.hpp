// Which privileges the session's user lacks, asked of the AuthorizationManager; changes nothing.
#pragma once

#include <stop_token>
#include <string>
#include <vector>

#include "vsphere/session.hpp"

namespace vmferry::vsphere {

// Those of `privileges` that the user does not have on that object. HasPrivilegeOnEntities, vSphere API 5.5 and later.
std::vector<std::string> missing_privileges(Session& session, const Moref& object,
                                            const std::vector<std::string>& privileges, std::stop_token stop);

}  // namespace vmferry::vsphere
