// The codec: what goes out, what comes in, and what is refused.
#include "vsphere/soap.hpp"

#include <gtest/gtest.h>

#include "fake_server.hpp"
#include "vsphere/fault.hpp"

namespace vmferry::vsphere {
namespace {

TEST(Call, KeepsTheOrderOfItsElementsAndEscapesText) {
  Call call("CreateSnapshot_Task", {"VirtualMachine", "vm-42"});
  call.text("name", "a<b>&\"c\"").flag("memory", false).number("n", -3);
  call.open("spec", "VirtualMachineConfigSpec").object("ref", {"Folder", "group-1"}).close();
  EXPECT_NE(call.envelope().find(
                "<soapenv:Body><CreateSnapshot_Task xmlns=\"urn:vim25\"><_this type=\"VirtualMachine\">vm-42</_this>"
                "<name>a&lt;b&gt;&amp;&quot;c&quot;</name><memory>false</memory><n>-3</n>"
                "<spec xsi:type=\"VirtualMachineConfigSpec\"><ref type=\"Folder\">group-1</ref></spec>"
                "</CreateSnapshot_Task></soapenv:Body>"),
            std::string::npos)
      << call.envelope();
}

TEST(Call, RefusesWhatXmlCannotCarry) {
  for (const std::string& bad : {std::string("a\x01"), std::string("\xff"), std::string("\xc0\x80"),
                                 std::string("\xed\xa0\x80"), std::string("\xe2\x82"), std::string("a\0b", 3)})
    EXPECT_THROW(escape_xml(bad), Error) << bad;
  EXPECT_EQ(escape_xml("gr\xc3\xbc\xc3\x9f \xf0\x9f\x9a\x80\t\n\r"), "gr\xc3\xbc\xc3\x9f \xf0\x9f\x9a\x80\t\n&#13;");
}

TEST(Call, CatchesUnbalancedElements) {
  Call open("X", {"A", "b"});
  open.open("spec");
  EXPECT_THROW(open.envelope(), Error);
  Call closed("X", {"A", "b"});
  EXPECT_THROW(closed.close(), Error);
}

TEST(Reply, ReadsValuesWithoutTheirPrefixes) {
  const Reply reply = decode_reply(golden("service-content.xml"));
  ASSERT_TRUE(reply.value);
  EXPECT_FALSE(reply.fault);
  EXPECT_EQ(reply.value.name(), "RetrieveServiceContentResponse");
  EXPECT_EQ(reply.value["returnval"]["rootFolder"].moref(), (Moref{"Folder", "group-d1"}));
  EXPECT_EQ(reply.value["returnval"]["about"]["apiVersion"].text(), "8.0.2.0");
  EXPECT_FALSE(reply.value["returnval"]["no"]["such"]["thing"]);
  EXPECT_EQ(reply.value["no"].text(), "");
  EXPECT_EQ(reply.value["no"].integer(), std::nullopt);
  EXPECT_TRUE(reply.value["no"].flag_or(true));
  EXPECT_TRUE(reply.value["no"].moref().empty());
  EXPECT_TRUE(reply.value["no"].children().empty());
  EXPECT_EQ(reply.value["no"].type(), "");
}

TEST(Reply, OutlivesItsDocument) {
  Node kept;
  {
    const Reply reply = decode_reply(golden("service-content.xml"));
    kept = reply.value["returnval"]["about"];
  }
  EXPECT_EQ(kept["name"].text(), "VMware vCenter Server");
}

TEST(Reply, RefusesWhatIsNoEnvelope) {
  for (const char* bad : {"", "hello", "<html><body>Bad gateway</body></html>", "<a>", "<Envelope/>",
                          "<Envelope><Body/></Envelope>", "<Envelope><Body>text</Body></Envelope>"}) {
    try {
      decode_reply(bad);
      ADD_FAILURE() << bad;
    } catch (const Error& e) {
      EXPECT_EQ(e.fault(), Fault::data) << bad;
    }
  }
}

TEST(Reply, RefusesNumbersAndFlagsThatAreNone) {
  const Reply reply = decode_reply(
      envelope("<R><n> 12 </n><big>99999999999999999999</big><x>1x</x><e/><t>1</t><f>false</f><m>maybe</m></R>"));
  EXPECT_EQ(reply.value["n"].integer(), 12);
  EXPECT_THROW(reply.value["big"].integer(), Error);
  EXPECT_THROW(reply.value["x"].integer(), Error);
  EXPECT_THROW(reply.value["e"].integer(), Error);
  EXPECT_TRUE(reply.value["t"].flag_or(false));
  EXPECT_FALSE(reply.value["f"].flag_or(true));
  EXPECT_THROW(reply.value["m"].flag_or(true), Error);
}

struct FaultRow {
  const char* file;
  const char* name;
  Fault fault;
  std::vector<std::string> says;
};
class Faults : public testing::TestWithParam<FaultRow> {};
TEST_P(Faults, BecomeErrorsThatSayWhatToDo) {
  const FaultRow& row = GetParam();
  const Reply reply = decode_reply(golden(row.file));
  ASSERT_TRUE(reply.fault);
  EXPECT_FALSE(reply.value);
  const FaultError error = fault_error("vc.example:443", "X on Y:z", *reply.fault);
  EXPECT_EQ(error.name(), row.name);
  EXPECT_EQ(error.fault(), row.fault) << to_string(error.fault());
  for (const std::string& words : row.says)
    EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
}
INSTANTIATE_TEST_SUITE_P(
    Table, Faults,
    testing::Values(FaultRow{"fault-invalid-login.xml",
                             "InvalidLogin",
                             Fault::auth,
                             {"vc.example:443", "X on Y:z", "incorrect user name", "Check"}},
                    FaultRow{"fault-not-authenticated.xml", "NotAuthenticated", Fault::auth, {"not authenticated"}},
                    FaultRow{"fault-no-permission.xml",
                             "NoPermission",
                             Fault::auth,
                             {"VirtualMachine.State.CreateSnapshot", "VirtualMachine:vm-42", "role"}},
                    FaultRow{"fault-restricted.xml",
                             "RestrictedVersion",
                             Fault::unsupported,
                             {"prohibits execution", "free ESXi licence", "vCenter"}},
                    FaultRow{"fault-change-id.xml", "InvalidArgument", Fault::data, {"changeId"}},
                    FaultRow{"fault-file.xml", "FileFault", Fault::data, {"web01-ctk.vmdk"}},
                    FaultRow{
                        "fault-task-in-progress.xml", "TaskInProgress", Fault::conflict, {"other task", "start again"}},
                    FaultRow{"fault-gone.xml", "ManagedObjectNotFound", Fault::not_found, {"snapshot-7"}},
                    FaultRow{"fault-unnamed.xml", "", Fault::unavailable, {"something went wrong."}}),
    [](const auto& row) { return std::string(row.param.name[0] ? row.param.name : "Unnamed"); });

TEST(Faults, KnowTheirArgument) {
  EXPECT_EQ(fault_error("s", "w", *decode_reply(golden("fault-change-id.xml")).fault).property(), "changeId");
  EXPECT_EQ(fault_error("s", "w", *decode_reply(golden("fault-file.xml")).fault).property(), "");
}

TEST(Faults, AreClassifiedByName) {
  EXPECT_EQ(classify("ToolsUnavailable"), Fault::conflict);
  EXPECT_EQ(classify("NotEnoughLicenses"), Fault::unsupported);
  EXPECT_EQ(classify("NoDiskSpace"), Fault::quota);
  EXPECT_EQ(classify("HostNotConnected"), Fault::unavailable);
  EXPECT_EQ(classify("SnapshotCloneNotSupported"), Fault::unsupported);
  EXPECT_EQ(classify("SomethingNew"), Fault::conflict);
}

}  // namespace
}  // namespace vmferry::vsphere
