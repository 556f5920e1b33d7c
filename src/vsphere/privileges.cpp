// https://developer.broadcom.com/xapis/vsphere-web-services-api/latest/vim.AuthorizationManager.html#hasPrivilegeOnEntities
#include "vsphere/privileges.hpp"

#include "vsphere/properties.hpp"

namespace vmferry::vsphere {

std::vector<std::string> missing_privileges(Session& session, const Moref& object,
                                            const std::vector<std::string>& privileges, std::stop_token stop) {
  const Node current = read(session, session.content().session_manager, {"currentSession"}, stop)["currentSession"];
  Call call("HasPrivilegeOnEntities", session.content().authorization_manager);
  call.object("entity", object).text("sessionId", current["key"].text());
  for (const std::string& privilege : privileges) call.text("privId", privilege);
  std::vector<std::string> missing;
  for (const Node& entity : session.call(call, Repeat::freely, stop).all("returnval"))
    for (const Node& privilege : entity.all("privAvailability"))
      if (!privilege["isGranted"].flag_or(false)) missing.push_back(privilege["privId"].text());
  return missing;
}

}  // namespace vmferry::vsphere
