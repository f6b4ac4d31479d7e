// SPDX-License-Identifier: GPL-2.0-only
//! What fence_xenwarden says of itself: XML as lib/metadata.rng of ClusterLabs' fence-agents wants it.

use super::options::{Action, SOCKET, TIMEOUT_S};
use std::fmt::Write;

/// A parameter.
struct Parameter {
    name: &'static str,
    attributes: &'static str,
    getopt: &'static str,
    kind: &'static str,
    default: Option<String>,
    what: &'static str,
}

fn parameters() -> [Parameter; 6] {
    let one = |name, attributes, getopt, kind, default, what| Parameter {
        name,
        attributes,
        getopt,
        kind,
        default,
        what,
    };
    [
        one(
            "action",
            "unique=\"0\" required=\"1\"",
            "-o, --action=[action]",
            "string",
            Some("reboot".to_owned()),
            "What is to be done",
        ),
        one(
            "plug",
            "unique=\"0\" required=\"0\" obsoletes=\"port\"",
            "-n, --plug=[host]",
            "string",
            None,
            "The host that is to be down, by the name that the pool has for it",
        ),
        one(
            "port",
            "unique=\"0\" required=\"0\" deprecated=\"1\"",
            "-n, --plug=[host]",
            "string",
            None,
            "The older name of plug",
        ),
        one(
            "nodename",
            "unique=\"0\" required=\"0\"",
            "--nodename=[host]",
            "string",
            None,
            "The host, where plug does not name it",
        ),
        one(
            "power_timeout",
            "unique=\"0\" required=\"0\"",
            "--power-timeout=[seconds]",
            "second",
            Some(TIMEOUT_S.to_string()),
            "How long it may take until the host is down for certain; Pacemaker's pcmk_off_timeout and pcmk_reboot_timeout must be longer",
        ),
        one(
            "socket_path",
            "unique=\"0\" required=\"0\"",
            "--socket-path=[path]",
            "string",
            Some(SOCKET.to_owned()),
            "Where xenwarden-pool listens on this host",
        ),
    ]
}

/// The whole of it.
#[must_use]
pub fn xml() -> String {
    let mut text = String::from(concat!(
        "<?xml version=\"1.0\" ?>\n",
        "<resource-agent name=\"fence_xenwarden\" shortdesc=\"Fence agent for Xen hosts guarded by xenwarden\">\n",
        "<longdesc>Has a host go down by its own hardware watchdog, and says so only when that is certain: the host confirms that it is ",
        "not kicked any more, or it is silent and the time has passed within which it promised to be down without quorum. ",
        "No shared disk and no power switch are needed; xenwarden-pool runs on each host.</longdesc>\n",
        "<vendor-url></vendor-url>\n",
        "<parameters>\n",
    ));
    for parameter in parameters() {
        let Parameter {
            name,
            attributes,
            getopt,
            kind,
            default,
            what,
        } = parameter;
        let default = default.map_or_else(String::new, |value| format!(" default=\"{value}\""));
        // A String takes everything.
        let _ = write!(
            text,
            "\t<parameter name=\"{name}\" {attributes}>\n\t\t<getopt mixed=\"{getopt}\" />\n\
             \t\t<content type=\"{kind}\"{default} />\n\t\t<shortdesc lang=\"en\">{what}</shortdesc>\n\t</parameter>\n"
        );
    }
    text.push_str("</parameters>\n<actions>\n");
    for (name, action) in Action::ALL {
        let automatic = match action {
            Action::On => " automatic=\"0\"",
            _ => "",
        };
        let _ = writeln!(text, "\t<action name=\"{name}\"{automatic} />");
    }
    text.push_str("</actions>\n</resource-agent>\n");
    text
}
