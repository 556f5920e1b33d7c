// The commands, the environment, help and completion. The flags stand in flags.cpp.
#include "config/options.hpp"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cctype>
#include <cstring>
#include <sstream>

#include "base/error.hpp"
#include "config/flags.hpp"
#include "config/host_options.hpp"
#include "plan/plan.hpp"

namespace vmferry::config {

namespace {

// Flags that a variable can stand in for. Done by hand: the subcommands share their fields, and CLI11 would apply the
// variables of every subcommand, the chosen one's flags notwithstanding.
struct Variable {
  const char* flag;
  const char* name;
  const char* unless = nullptr;  // a flag that makes it meaningless
};
constexpr Variable variables[] = {
    {"--state-dir", "VMFERRY_STATE_DIR"},
    {"--vmware-endpoint", "VMFERRY_VMWARE_ENDPOINT"},
    {"--vmware-username", "VMFERRY_VMWARE_USERNAME"},
    {"--vmware-password-file", "VMFERRY_VMWARE_PASSWORD_FILE"},
    {"--vmware-path", "VMFERRY_VMWARE_PATH"},
    {"--vmware-ca", "VMFERRY_VMWARE_CA", "--vmware-insecure"},
    {"--vmware-fingerprint", "VMFERRY_VMWARE_FINGERPRINT", "--vmware-insecure"},
    {"--vddk-libdir", "VMFERRY_VDDK_LIBDIR"},
    {"--attach", "VMFERRY_ATTACH"},
    {"--storage-address", "VMFERRY_STORAGE_ADDRESS"},
    {"--brick-python", "VMFERRY_BRICK_PYTHON"},
    {"--image-format", "VMFERRY_IMAGE_FORMAT"},
    {"--image-upload", "VMFERRY_IMAGE_UPLOAD"},
    {"--instance-id", "VMFERRY_INSTANCE_ID"},
    {"--metadata-url", "VMFERRY_METADATA_URL"},
    {"--device-dir", "VMFERRY_DEVICE_DIR"},
    {"--device-identity", "VMFERRY_DEVICE_IDENTITY"},
    {"--proxy-root", "VMFERRY_PROXY_ROOT"},
};

void apply_environment(CLI::App& sub, const std::map<std::string, std::string>& environment) {
  for (const Variable& variable : variables) {
    CLI::Option* option = sub.get_option_no_throw(variable.flag);
    const auto found = environment.find(variable.name);
    if (!option || option->count() > 0 || found == environment.end() || found->second.empty()) continue;
    if (variable.unless && sub.get_option(variable.unless)->count() > 0) continue;
    option->add_result(found->second);
    try {
      option->run_callback();
    } catch (const CLI::Error& e) {
      // CLI11 names the flag, which was not given.
      std::string why = e.what();
      if (const std::string flag = std::string(variable.flag) + ": "; why.starts_with(flag)) why.erase(0, flag.size());
      throw Error(Fault::config, fmt::format("the variable {}: {}", variable.name, why));
    }
  }
}

void require(const CLI::App& sub, const char* flag) {
  if (sub.get_option(flag)->count() > 0) return;
  std::string or_variable;
  for (const Variable& variable : variables)
    if (std::string_view(variable.flag) == flag) or_variable = fmt::format(" (or the variable {})", variable.name);
  throw Error(Fault::usage, fmt::format("{} is missing{}; see vmferry {} --help", flag, or_variable, sub.get_name()));
}

// Overwrites the value of --vmware-password where the kernel shows it. Both spellings: "--flag VALUE" and
// "--flag=VALUE".
void wipe_password(int argc, char** argv) {
  constexpr std::string_view flag = "--vmware-password";
  for (int i = 1; i < argc; ++i) {
    const std::string_view arg = argv[i];
    if (arg == flag && i + 1 < argc)
      std::memset(argv[i + 1], 'x', std::strlen(argv[i + 1]));
    else if (arg.starts_with(flag) && arg.size() > flag.size() && arg[flag.size()] == '=')
      std::memset(argv[i] + flag.size() + 1, 'x', arg.size() - flag.size() - 1);
  }
}

constexpr const char* migrate_footer =
    "One cycle of a running VM: everything the first time, later only what changed. Repeat it as often as you like.\n\n"
    "Example:\n"
    "  vmferry migrate --vmware-endpoint vcenter.example --vmware-username admin@vsphere.local \\\n"
    "    --vmware-password-file ~/.vcenter --vmware-path /DC0/vm/web01 --os-cloud mycloud";
constexpr const char* cutover_footer =
    "Syncs, shuts the guest down, copies the last changes and creates the server. Safe to repeat after any failure.\n\n"
    "Example:\n"
    "  vmferry cutover --vmware-endpoint vcenter.example --vmware-username admin@vsphere.local \\\n"
    "    --vmware-password-file ~/.vcenter --vmware-path /DC0/vm/web01 --os-cloud mycloud --flavor m1.small \\\n"
    "    --network-mapping mac=00:50:56:01:02:03,network-id=NET,subnet-id=SUBNET";
constexpr const char* verify_footer =
    "Reads the volumes again and compares every 64 KiB with the digest that was kept when it was written: no byte is read from VMware.\n"
    "With --repair, what differs is copied again by a cycle.\n\n"
    "Example:\n"
    "  vmferry verify --vmware-endpoint vcenter.example --vmware-username admin@vsphere.local \\\n"
    "    --vmware-password-file ~/.vcenter --vmware-path /DC0/vm/web01 --os-cloud mycloud";
constexpr const char* check_footer =
    "Asks vSphere, OpenStack and this host what stands in the way of a migration: privileges, disks, tools, quota, networks. With the flags of\n"
    "a cutover it looks at those too. Exit code 1 when there is a problem.\n\n"
    "Example:\n"
    "  vmferry check --vmware-endpoint vcenter.example --vmware-username admin@vsphere.local \\\n"
    "    --vmware-password-file ~/.vcenter --vmware-path /DC0/vm/web01 --os-cloud mycloud --flavor m1.small\n"
    "  vmferry check transports --vmware-endpoint vcenter.example --vmware-username admin@vsphere.local \\\n"
    "    --vmware-password-file ~/.vcenter --vmware-path /DC0/vm/web01";
constexpr const char* abort_footer =
    "Removes our snapshot, detaches the volumes and deletes the ports that vmferry made. The volumes stay unless --delete-volumes.\n\n"
    "Example:\n  vmferry abort --vmware-endpoint vcenter.example --vmware-username admin@vsphere.local --vmware-path web01 --delete-volumes";
constexpr const char* inventory_footer =
    "Example:\n  vmferry inventory --vmware-endpoint vcenter.example --vmware-username admin@vsphere.local";
constexpr const char* status_footer =
    "The jobs are those of this host's journal; nothing is asked of vSphere or OpenStack, unless --volumes says so.\n\n"
    "Example:\n"
    "  vmferry status --watch\n"
    "  vmferry status --volumes --os-cloud mycloud       also what migratekit or another host has begun";
constexpr const char* limits_footer =
    "What all runs on this host share. A change acts at once, also on copies that run; without a flag it is shown.\n\n"
    "Example:\n"
    "  vmferry limits --host-bandwidth 400M              all copies of this host together\n"
    "  vmferry limits --vm web01 --bandwidth 50M         the run that copies web01 now\n"
    "  vmferry limits --esxi-connections 8               to each ESXi host";
constexpr const char* evidence_footer =
    "Writes what the journal tells of a migration as a page (HTML) and as JSON: disks, bytes, change ids, digests, how long everything took.\n"
    "Nothing is asked of vSphere or OpenStack. Every migrate, cutover, verify and abort writes it too, into the folder evidence of the state folder.\n\n"
    "Example:\n  vmferry evidence --vmware-path /DC0/vm/web01 --out ~/handover";
constexpr const char* heat_template_footer =
    "Prints a template for Heat (HOT) of a VM that was cut over: its server, ports and volumes as resources with external_id. A stack of it\n"
    "can refer to them; it does not make, change or delete them. Drawn from the journal, nothing is asked of vSphere or OpenStack.\n\n"
    "Example:\n"
    "  vmferry heat-template --vmware-path /DC0/vm/web01 > web01.yaml\n"
    "  openstack stack create --wait --template web01.yaml web01";
constexpr const char* lab_footer =
    "A vCenter, an OpenStack and a busy guest on this machine, to play with.\n\n"
    "  up [--dir DIR] [--esxi] [--disks 192M,96M] [--writer-rate MB/S]   start it, print the commands to try\n"
    "  status [--dir DIR] [--json]                                       what runs\n"
    "  ctl [--dir DIR] vcenter|openstack METHOD PATH [JSON]              faults, resets, disks: docs/lab.md\n"
    "  replay --from DIR                                                 answer from a recording (--record)\n"
    "  down [--dir DIR]                                                  end it\n\n"
    "Example:\n  vmferry lab up && vmferry lab status && vmferry lab down";

// One parser for everything, so that parse() and completion() cannot disagree.
struct Parser {
  CLI::App app{"Moves running virtual machines from VMware vSphere to OpenStack with almost no downtime.", "vmferry"};
  Options options;
  Raw raw;
  std::string check_what;
  std::vector<std::pair<Verb, CLI::App*>> verbs;

  Parser() {
    app.require_subcommand(0, 1);
    app.set_version_flag("--version", [] { return std::string("vmferry ") + VMFERRY_VERSION; });
    app.footer(
        "Start with:  vmferry lab up   (a whole vCenter and OpenStack on this machine)\nExit codes: docs/exit-codes.md");
    CLI::App* migrate = add(Verb::migrate, "migrate", "Run one migration cycle of a running VM", migrate_footer);
    CLI::App* cutover =
        add(Verb::cutover, "cutover", "Shut the VM down and start it on the other side", cutover_footer);
    CLI::App* verify =
        add(Verb::verify, "verify", "Read the volumes again and compare them with what was written", verify_footer);
    CLI::App* check =
        add(Verb::check, "check", "Find what a migration would stumble over; changes nothing", check_footer);
    for (CLI::App* sub : {migrate, cutover, verify, check}) {
      add_vmware(*sub, options, raw);
      add_target(*sub, options, raw);
      add_copy(*sub, options, raw);
      if (sub != verify)
        sub->add_option(
               "--audit", raw.audit,
               "Percent of what change tracking calls unchanged to read and compare in each cycle (default 0.5)")
            ->check(CLI::Range(0.0, 100.0).description(""))
            ->type_name("PERCENT")
            ->group(copy_group);
      if (sub == migrate || sub == cutover)
        sub->add_flag("--verify", options.copy.verify, "Read the volumes again after the copy and compare")
            ->group(copy_group);
      if (sub == migrate || sub == cutover)
        sub->add_flag("--verify-changed", options.copy.verify_changed,
                      "Of the volumes, read again only what was not read back since it was written")
            ->group(copy_group);
      if (sub == migrate || sub == cutover)
        sub->add_flag("--again", options.again, "Begin anew although this VM was cut over already")
            ->group(general_group);
    }
    verify->add_option("--sample", raw.sample, "Percent of the disks to read, spread at random (default 100)")
        ->check(CLI::Range(0.0, 100.0).description(""))
        ->type_name("PERCENT");
    verify->add_flag("--changed", options.verify.changed, "Read only what was not read back since it was written");
    verify->add_flag("--repair", options.verify.repair, "Copy what differs once more");
    add_cutover(*cutover, options, raw);
    add_cutover(*check, options, raw);
    // Looked at by finish_check(): CLI11 would complain of the value of a misspelt flag first.
    check
        ->add_option("what", check_what,
                     "transports: read a little of each disk by every transport, from a snapshot that is removed again")
        ->type_name("");
    check->add_flag("--print-role", options.print_role,
                    "Print the vSphere role that is needed, as govc commands, and end");
    CLI::App* abort =
        add(Verb::abort, "abort", "Undo: snapshot, attachments and ports, if wanted the volumes", abort_footer);
    add_vmware(*abort, options, raw);
    add_target(*abort, options, raw);
    abort->add_flag("--delete-volumes", options.delete_volumes, "Delete the volumes too");
    CLI::App* host = add(Verb::host, "host", "Make, check and remove the conversion host in OpenStack", host_footer);
    add_host(*host, options);
    CLI::App* inventory = add(Verb::inventory, "inventory", "List the VMs of the endpoint", inventory_footer);
    add_vmware(*inventory, options, raw);
    CLI::App* status = add(Verb::status, "status", "Show the jobs of this host", status_footer);
    CLI::Option* all = status->add_flag("--all", options.all, "Aborted jobs too");
    status->add_flag("--watch", options.watch, "Refresh every two seconds (with --volumes: ten) until Ctrl-C");
    CLI::Option* volumes = status->add_flag(
        "--volumes", options.volumes,
        "Instead: the volumes of the project that hold moved disks, whichever host or program made them");
    add_cloud(*status, options, target_group, "OpenStack project, name or id, whose volumes are listed");
    for (const char* flag : {"--os-cloud", "--project"}) status->get_option(flag)->needs(volumes);
    all->excludes(volumes);
    CLI::App* limits =
        add(Verb::limits, "limits", "Show or change what the copies of this host may use", limits_footer);
    add_limits(*limits, options, raw);
    CLI::App* evidence =
        add(Verb::evidence, "evidence", "Show what was done to a VM, when, and how that is known", evidence_footer);
    add_evidence(*evidence, options);
    CLI::App* heat_template = add(Verb::heat_template, "heat-template",
                                  "Print a template for Heat of a VM that was moved", heat_template_footer);
    add_chosen_job(*heat_template, options);
    for (CLI::App* sub :
         {migrate, cutover, verify, check, abort, host, inventory, status, limits, evidence, heat_template})
      add_general(*sub, options);
    heat_template->remove_option(heat_template->get_option("--json"));  // it is YAML
    CLI::App* lab = add(Verb::lab, "lab", "A lab on this machine: up, down, status", lab_footer);
    lab->prefix_command();
    CLI::App* complete = add(Verb::completion, "completion", "Print a completion script",
                             "Example:\n  vmferry completion bash > /etc/bash_completion.d/vmferry");
    complete->add_option("shell", options.rest, "bash, zsh or fish")->required()->expected(1);
    add(Verb::version, "version", "Print the version", "Example:\n  vmferry version");
    name_variables();
  }

  // The variables belong into the help text.
  void name_variables() {
    for (const auto& [verb, sub] : verbs)
      for (const Variable& variable : variables)
        if (CLI::Option* option = sub->get_option_no_throw(variable.flag))
          option->description(fmt::format("{} [{}]", option->get_description(), variable.name));
  }

  CLI::App* add(Verb verb, const char* name, const char* what, const char* footer) {
    CLI::App* sub = app.add_subcommand(name, what);
    sub->footer(footer);
    verbs.emplace_back(verb, sub);
    return sub;
  }
};

}  // namespace

namespace {

// Of what CLI11 did not expect, what was misspelt: the flag's value stands there too, since nothing takes it.
std::string misspelt(const std::string& what) {
  std::istringstream words(what.substr(what.rfind(": ") + 2));
  std::string word;
  while (words >> word)
    if (word.starts_with('-')) break;
  return word.substr(0, word.find('='));
}

// What the flag takes, of which CLI11 says only that it cannot have this value.
std::string meaning_of(const CLI::ParseError& e, const CLI::App& sub) {
  const bool of_a_value = dynamic_cast<const CLI::ConversionError*>(&e) ||
                          dynamic_cast<const CLI::ValidationError*>(&e) ||
                          dynamic_cast<const CLI::ArgumentMismatch*>(&e);
  if (!of_a_value) return "";
  const std::string what = e.what();
  for (const CLI::Option* option : sub.get_options()) {
    const std::string name = option->get_name();
    const auto at = what.find(name);
    if (name.empty() || at == std::string::npos) continue;
    if (const char next = what.c_str()[at + name.size()]; std::isalnum(static_cast<unsigned char>(next)) || next == '-')
      continue;
    return fmt::format("  {} {}: {}\n", name, option->get_type_name(), option->get_description());
  }
  return "";
}

// CLI11's sentence, with what was probably meant and where to read on.
std::string explain_usage(Parser& parser, const CLI::ParseError& e, const std::string& first_word) {
  const std::string what = e.what();
  std::string command, meaning;
  std::vector<std::string> known;
  for (const auto& [verb, sub] : parser.verbs) {
    if (!sub->parsed()) {
      if (command.empty()) known.push_back(sub->get_name());
      continue;
    }
    command = " " + sub->get_name();
    meaning = meaning_of(e, *sub);
    known.clear();
    for (const CLI::Option* option : sub->get_options())
      for (const std::string& name : option->get_lnames()) known.push_back("--" + name);
    break;
  }
  std::string text = fmt::format("error: {}\n{}", what, meaning);
  if (dynamic_cast<const CLI::ExtrasError*>(&e)) {
    const std::string word = command.empty() && !first_word.starts_with('-') ? first_word : misspelt(what);
    text = fmt::format("error: {} was not expected\n", word);
    if (const auto near = plan::nearest(word, known, 1); !near.empty())
      text += fmt::format("did you mean {}?\n", near.front());
  } else if (what.find("At Most 1 required") != std::string::npos) {
    text = fmt::format("error: {} is given twice\n{}", what.substr(0, what.find(':')), meaning);
  }
  return text + fmt::format("see vmferry{} --help\n", command);
}

void finish_check(const std::string& what, Options& o) {
  o.try_transports = what == "transports";
  if (!what.empty() && !o.try_transports)
    throw Error(Fault::usage, fmt::format("check {}: give transports, or flags alone; see vmferry check --help", what));
}

}  // namespace

Parsed parse(int argc, char** argv, const std::map<std::string, std::string>& environment) {
  Parser parser;
  Parsed parsed;
  try {
    parser.app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    wipe_password(argc, argv);
    std::ostringstream out, err;
    const int code = parser.app.exit(e, out, err);
    parsed.finished = true;
    parsed.exit_code = code == 0 ? 0 : exit_code(Fault::usage);
    parsed.text = code == 0 ? out.str() : explain_usage(parser, e, argc > 1 ? argv[1] : "");
    return parsed;
  }
  wipe_password(argc, argv);
  Options& o = parser.options;
  bool password_file_flag = false;  // a flag beats the variable with the password itself
  for (const auto& [verb, sub] : parser.verbs)
    if (sub->parsed()) {
      o.verb = verb;
      password_file_flag = !o.vmware.password_file.empty();
      if (verb == Verb::host) finish_host(*sub, o);
      apply_environment(*sub, environment);
      if (verb == Verb::check) finish_check(parser.check_what, o);
      if (verb == Verb::check && o.print_role) continue;  // asks nobody
      if (verb == Verb::migrate || verb == Verb::cutover || verb == Verb::verify || verb == Verb::check ||
          verb == Verb::abort || verb == Verb::inventory)
        for (const char* flag : {"--vmware-endpoint", "--vmware-username"}) require(*sub, flag);
      if (verb == Verb::migrate || verb == Verb::cutover || verb == Verb::verify || verb == Verb::check ||
          verb == Verb::abort)
        require(*sub, "--vmware-path");
      if (verb == Verb::lab) o.rest = sub->remaining();
    }
  if (o.verb == Verb::none) {
    parsed.finished = true;
    parsed.text = parser.app.help();
    return parsed;
  }
  if (!parser.raw.password.empty()) {
    o.vmware.password_on_command_line = true;
    o.vmware.password = Secret(std::move(parser.raw.password));
  } else if (const auto found = environment.find("VMFERRY_VMWARE_PASSWORD");
             found != environment.end() && !found->second.empty() && !password_file_flag) {
    o.vmware.password = Secret(std::string(found->second));
  }
  finish(o, parser.raw);
  parsed.options = std::move(o);
  return parsed;
}

namespace {

struct Words {
  std::vector<std::pair<std::string, std::string>> commands;                      // name, description
  std::map<std::string, std::vector<std::pair<std::string, std::string>>> flags;  // by command
};

Words words() {
  Parser parser;
  Words w;
  for (const auto& [verb, sub] : parser.verbs) {
    w.commands.emplace_back(sub->get_name(), sub->get_description());
    for (const CLI::Option* option : sub->get_options())
      for (const std::string& name : option->get_lnames())
        w.flags[sub->get_name()].emplace_back("--" + name, option->get_description());
  }
  for (const char* action : {"destroy", "check", "deploy"})
    w.flags["host"].insert(w.flags["host"].begin(), {action, ""});
  w.flags["check"].insert(w.flags["check"].begin(), {"transports", ""});
  w.flags["lab"] = {{"up", "Start the lab"},
                    {"down", "End it"},
                    {"status", "Show it"},
                    {"ctl", "Control it"},
                    {"replay", "Answer from a recording"}};
  w.flags["completion"] = {{"bash", ""}, {"zsh", ""}, {"fish", ""}};
  return w;
}

std::string join(const std::vector<std::pair<std::string, std::string>>& list) {
  std::string text;
  for (const auto& [word, description] : list) text += (text.empty() ? "" : " ") + word;
  return text;
}

std::string quoted(std::string text) {
  std::string out;
  for (const char c : text) {
    if (c == '\'')
      out += "'\\''";
    else
      out += c;
  }
  return "'" + out + "'";
}

}  // namespace

std::string completion(const std::string& shell) {
  const Words w = words();
  std::string text;
  if (shell == "bash") {
    text = "_vmferry() {\n  local cur=${COMP_WORDS[COMP_CWORD]} words\n  if [ \"$COMP_CWORD\" -eq 1 ]; then words=" +
           quoted(join(w.commands)) + "\n  else case ${COMP_WORDS[1]} in\n";
    for (const auto& [command, flags] : w.flags)
      text += fmt::format("    {}) words={} ;;\n", command, quoted(join(flags)));
    text +=
        "    esac\n  fi\n  case ${COMP_WORDS[COMP_CWORD-1]} in\n"
        "    --*-dir|--*-file|--local-disk-path|--esxi-ssh-key|--esxi-ssh-known-hosts|--vmware-ca|--record|--out|--public-key|--user-data) COMPREPLY=($(compgen -f -- \"$cur\")); return ;;\n  esac\n"
        "  COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n}\ncomplete -F _vmferry vmferry\n";
  } else if (shell == "zsh") {
    text = "#compdef vmferry\n_vmferry() {\n  local -a list\n  if (( CURRENT == 2 )); then\n    list=(";
    for (const auto& [command, what] : w.commands) text += " " + quoted(command + ":" + what);
    text += " )\n  else\n    case $words[2] in\n";
    for (const auto& [command, flags] : w.flags) {
      text += fmt::format("      {}) list=(", command);
      for (const auto& [flag, what] : flags) text += " " + quoted(what.empty() ? flag : flag + ":" + what);
      text += " ) ;;\n";
    }
    text += "    esac\n  fi\n  _describe vmferry list\n}\ncompdef _vmferry vmferry\n";
  } else if (shell == "fish") {
    for (const auto& [command, what] : w.commands)
      text += fmt::format("complete -c vmferry -f -n __fish_use_subcommand -a {} -d {}\n", command, quoted(what));
    for (const auto& [command, flags] : w.flags)
      for (const auto& [flag, what] : flags)
        text += flag.starts_with("--")
                    ? fmt::format("complete -c vmferry -n '__fish_seen_subcommand_from {}' -l {} -d {}\n", command,
                                  flag.substr(2), quoted(what))
                    : fmt::format("complete -c vmferry -f -n '__fish_seen_subcommand_from {}' -a {}\n", command, flag);
  } else {
    throw Error(Fault::usage, fmt::format("completion {}: bash, zsh and fish are known", shell));
  }
  return text;
}

}  // namespace vmferry::config
