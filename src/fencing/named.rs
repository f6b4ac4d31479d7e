// SPDX-License-Identifier: GPL-2.0-only
//! Which node a host's name means.
//!
//! In: a name, what a member knows of the nodes. Out: one node, or why there is none. Never: one of several that may be
//! meant. Pure.

use super::Node;
use super::member::Member;

/// The node that has this name. Who was fenced, and is not heard since, leaves its name to who is.
///
/// # Errors
/// In words: nobody has it, or several have.
pub fn node_of(member: &Member, host: &str) -> Result<Node, String> {
    let named = member.names().filter(|(_, name)| *name == host);
    let all: Vec<Node> = named.map(|(node, _)| node).collect();
    let up = all.iter().copied().filter(|node| !member.is_down(*node));
    let up: Vec<Node> = up.collect();
    let list = |nodes: &[Node]| {
        let nodes: Vec<String> = nodes.iter().map(Node::to_string).collect();
        nodes.join(", ")
    };
    Err(match (&up[..], &all[..]) {
        ([node], _) | ([], [node]) => return Ok(*node),
        ([], []) => format!("{host}: no host of this name was heard since this member started"),
        ([], all) => format!(
            "{host}: nodes {} had this name, and each is down for certain: which is meant is not known",
            list(all)
        ),
        (several, _) => format!(
            "{host}: nodes {} have this name: change all but one",
            list(several)
        ),
    })
}
