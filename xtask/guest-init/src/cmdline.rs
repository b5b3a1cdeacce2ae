//! The kernel's command line: words, some of them quoted, of which those that begin with
//! `guest.` are ours. (Those that begin with a module's name and a dot are parameters of it.)

/// What the command line asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Vendor and device id of functions for `vfio-pci`.
    pub vfio: Option<String>,
    /// Modules to load.
    pub modules: Vec<String>,
    /// Serial line to the other guest.
    pub peer: Option<String>,
    /// Which of two guests this is: `a` or `b`.
    pub role: Option<String>,
    /// Command to run.
    pub run: Option<String>,
    /// Whether to make a system of the disks, and who then talks to it.
    pub system: Option<System>,
}

/// Who talks to a system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum System {
    /// Whoever asks on the control channel.
    Agent,
    /// A person at the console as well, at whose shell's end the guest powers off.
    Shell,
}

impl Settings {
    /// Takes what is ours; the rest is the kernel's.
    pub(crate) fn parse(line: &str) -> Settings {
        let mut settings = Settings::default();
        for word in words(line.trim()) {
            let Some((name, value)) = word.split_once('=') else {
                continue;
            };
            let value = value.to_owned();
            match name {
                "guest.vfio" => settings.vfio = Some(value),
                "guest.modules" => settings.modules = value.split(',').map(str::to_owned).collect(),
                "guest.peer" => settings.peer = Some(value),
                "guest.role" => settings.role = Some(value),
                "guest.run" => settings.run = Some(value),
                "guest.system" if value == "shell" => settings.system = Some(System::Shell),
                "guest.system" => settings.system = Some(System::Agent),
                _ => {}
            }
        }
        settings
    }
}

/// Words as the kernel splits them: at spaces outside double quotes, the quotes taken away.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for character in line.chars() {
        match character {
            '"' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            _ => words
                .iter_mut()
                .next_back()
                .into_iter()
                .for_each(|word| word.push(character)),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_words_hold_spaces() {
        let settings = Settings::parse(
            "console=ttyS0 guest.run=\"echo 'a b' && x=1\" quiet guest.vfio=1b36:0010 guest.modules=a,b\n",
        );
        assert_eq!(settings.run.as_deref(), Some("echo 'a b' && x=1"));
        assert_eq!(settings.vfio.as_deref(), Some("1b36:0010"));
        assert_eq!(settings.modules, ["a", "b"]);
        assert_eq!(settings.peer, None);
    }

    #[test]
    fn quotes_may_open_before_the_name() {
        let settings = Settings::parse("\"guest.run=echo  two\"");
        assert_eq!(settings.run.as_deref(), Some("echo  two"));
    }
}
