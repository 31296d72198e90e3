//! Which container a process is in, by the path of its control group.
//!
//! The shapes are those that Docker, Podman, containerd, CRI-O, Kubernetes, LXC and systemd-nspawn give their groups
//! under either version of control groups and either group driver. Nothing but the path is asked: no runtime, no
//! socket.

/// The fewest characters of an id that select a container: as many as `docker ps` shows.
pub const ID_MIN: usize = 12;

/// The length of a full container id.
const ID_LENGTH: usize = 64;

/// A container, or a systemd unit, that a process runs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Container {
    /// By the 64 hexadecimal digits that the runtime gave it.
    Id(String),
    /// By name.
    Name(String),
}

impl Container {
    /// Whether `wanted` means this one: its name, or the first [`ID_MIN`] or more digits of its id.
    #[must_use]
    pub fn is(&self, wanted: &str) -> bool {
        match self {
            Self::Id(id) => wanted.len() >= ID_MIN && id.starts_with(&wanted.to_ascii_lowercase()),
            Self::Name(name) => name == wanted,
        }
    }

    /// The name, or as much of the id as people are used to see.
    #[must_use]
    pub fn short(&self) -> &str {
        match self {
            Self::Id(id) => id.get(..ID_MIN).unwrap_or(id),
            Self::Name(name) => name,
        }
    }
}

/// The containers named in the text of `/proc/PID/cgroup`, the outermost first, each once.
#[must_use]
pub fn containers(cgroup: &str) -> Vec<Container> {
    let mut found = Vec::new();
    // Version 1 has one line a controller, and some controllers may be left out of the container: so all are read.
    for line in cgroup.lines() {
        let Some(path) = line.splitn(3, ':').nth(2) else { continue };
        for (place, part) in path.split('/').enumerate() {
            let before = path.split('/').nth(place.wrapping_sub(1)).unwrap_or("");
            if let Some(container) = container(before, part)
                && !found.contains(&container)
            {
                found.push(container);
            }
        }
    }
    found
}

/// The container that one part of a path stands for, with the part before it.
fn container(before: &str, part: &str) -> Option<Container> {
    // Podman's and LXC's monitors run beside the container, not in it.
    if part.starts_with("libpod-conmon-") || part.starts_with("crio-conmon-") || part.starts_with("lxc.monitor") {
        return None;
    }
    if let Some(name) = part.strip_prefix("lxc.payload.").or_else(|| (before == "lxc").then_some(part)) {
        return named(name);
    }
    let (stem, unit) = match part.rsplit_once('.') {
        Some((stem, "scope" | "service")) => (stem, true),
        _ => (part, false),
    };
    // The id stands alone (`/docker/<id>`), after the runtime's name (`docker-<id>.scope`, `libpod-<id>`), or after a
    // colon, where containerd was told the systemd form of a path under the other driver.
    let last = stem.rsplit(['-', ':']).next().unwrap_or(stem);
    if last.len() == ID_LENGTH && last.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Some(Container::Id(last.to_ascii_lowercase()));
    }
    if !unit {
        return None;
    }
    match stem.strip_prefix("systemd-nspawn@").or_else(|| stem.strip_prefix("machine-")) {
        Some(name) => named(&unescaped(name)),
        None => named(stem),
    }
}

fn named(name: &str) -> Option<Container> {
    (!name.is_empty()).then(|| Container::Name(name.to_owned()))
}

/// Undoes systemd's escaping of unit names (`systemd.unit(5)`): `\x2d` is `-`.
fn unescaped(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    let mut rest = name;
    while let Some((before, after)) = rest.split_once("\\x") {
        text.push_str(before);
        match after.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) if byte.is_ascii() => {
                text.push(char::from(byte));
                rest = &after[2..];
            }
            _ => {
                text.push_str("\\x");
                rest = after;
            }
        }
    }
    text.push_str(rest);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "3f4c7c1d5a8e90b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f607182930";

    fn id() -> Vec<Container> {
        vec![Container::Id(ID.to_owned())]
    }

    #[test]
    fn every_runtime_s_shape_gives_the_id() {
        for shape in [
            "12:memory:/docker/ID\n11:cpu,cpuacct:/docker/ID\n1:name=systemd:/docker/ID\n",
            "0::/docker/ID\n",
            "0::/system.slice/docker-ID.scope\n",
            "9:memory:/machine.slice/libpod-ID.scope\n",
            "4:pids:/libpod_parent/libpod-ID\n",
            "0::/kubepods/burstable/pod0a1b2c3d-1111-2222-3333-444455556666/ID\n",
            "0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod0a1b2c3d_1111.slice/cri-containerd-ID.scope\n",
            "11:pids:/kubepods.slice/kubepods-pod0a1b2c3d_1111.slice/crio-ID.scope\n",
            "11:cpu:/system.slice/containerd.service/kubepods-burstable-pod0a1b.slice:cri-containerd:ID\n",
            "0::/default/ID\n",
            "0::/ecs/0123456789abcdef/ID\n",
            "0::/../../system.slice/docker-ID.scope\n",
        ] {
            let found = containers(&shape.replace("ID", ID));
            let ids: Vec<_> = found.iter().filter(|found| matches!(found, Container::Id(_))).cloned().collect();
            assert_eq!(ids, id(), "{shape}");
        }
    }

    #[test]
    fn a_rootless_podman_container_is_under_its_user_s_units() {
        let found = containers(
            &"0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope/container\n"
                .replace("ID", ID),
        );
        assert_eq!(found, [Container::Name("user@1000".to_owned()), Container::Id(ID.to_owned())]);
    }

    #[test]
    fn names_are_found_where_the_path_carries_them() {
        for (shape, name) in [
            ("10:memory:/lxc/web\n", "web"),
            ("0::/lxc.payload.web/system.slice\n", "web"),
            ("0::/machine.slice/systemd-nspawn@web.service/payload\n", "web"),
            ("0::/machine.slice/machine-my\\x2dbot.scope\n", "my-bot"),
            ("0::/system.slice/bot.service\n", "bot"),
        ] {
            assert_eq!(containers(shape), [Container::Name(name.to_owned())], "{shape}");
        }
    }

    #[test]
    fn containers_inside_containers_are_both_found() {
        let inner = ID.replace('3', "a");
        let found = containers(&format!("0::/docker/{ID}/docker/{inner}\n"));
        assert_eq!(found, [Container::Id(ID.to_owned()), Container::Id(inner)]);
    }

    #[test]
    fn what_stands_beside_a_container_is_not_in_it() {
        for shape in [
            "0::/machine.slice/libpod-conmon-ID.scope\n",
            "0::/lxc.monitor.web\n",
            "0::/\n",
            "0::/user.slice/user-1000.slice\n",
            "0::/kubepods/burstable/pod0a1b2c3d-1111-2222-3333-444455556666\n",
            "garbage\n",
            "",
        ] {
            assert_eq!(containers(&shape.replace("ID", ID)), [], "{shape}");
        }
    }

    #[test]
    fn twelve_digits_of_an_id_or_a_whole_name_select() {
        let container = Container::Id(ID.to_owned());
        assert!(container.is(ID) && container.is(&ID[..12]) && container.is(&ID[..12].to_uppercase()));
        assert!(!container.is(&ID[..11]) && !container.is("deadbeef0000") && !container.is(&format!("{ID}0")));
        let container = Container::Name("bot".to_owned());
        assert!(container.is("bot") && !container.is("bo") && !container.is("bots"));
    }
}
