//! Files that are this program's own: for nobody else to read, never written through a link that
//! somebody put there, and never waited for.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;

/// For its owner alone: who talks to whom is nobody else's business.
const MODE: u32 = 0o600;

/// Opens an ordinary file to read it.
///
/// # Errors
/// It is a link or no ordinary file, or cannot be opened. A pipe without a writer is told at once.
pub fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(flags(OFlags::NONBLOCK)).open(path)?;
    ordinary(file)
}

/// Creates a file in place of one that is there, which is not touched: whoever has it open keeps it.
/// Devices and pipes are opened as they are.
///
/// # Errors
/// The name is that of a link, or of something that is not ours to replace.
pub fn create(path: &Path) -> io::Result<File> {
    let there = match fs::symlink_metadata(path) {
        Ok(there) => there.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return exclusive(path),
        Err(error) => return Err(error),
    };
    if there.is_symlink() {
        return Err(io::Error::other(
            "it is a symbolic link, and may lead anywhere: name the file itself",
        ));
    }
    if !there.is_file() {
        return OpenOptions::new().write(true).custom_flags(flags(OFlags::empty())).open(path);
    }
    let beside = beside(path);
    // What a crash left.
    let _ = fs::remove_file(&beside);
    let file = exclusive(&beside)?;
    fs::rename(&beside, path).inspect_err(|_| drop(fs::remove_file(&beside)))?;
    Ok(file)
}

/// Opens a file of which the contents matter little, and makes it if it is not there.
///
/// # Errors
/// As for [`open`].
pub fn keep(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(MODE);
    let file = ordinary(options.custom_flags(flags(OFlags::NONBLOCK)).open(path)?)?;
    if file.metadata()?.permissions().mode() & 0o777 != MODE {
        file.set_permissions(fs::Permissions::from_mode(MODE))?;
    }
    Ok(file)
}

/// The name under which something is written that is to take another's place.
pub fn beside(path: &Path) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

fn exclusive(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(MODE).open(path)
}

fn flags(more: OFlags) -> i32 {
    (OFlags::NOFOLLOW | OFlags::CLOEXEC | more).bits() as i32
}

fn ordinary(file: File) -> io::Result<File> {
    if file.metadata()?.is_file() {
        return Ok(file);
    }
    Err(io::Error::other("it is no ordinary file"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::Write, os::unix::fs::symlink};

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_file_that_is_there_is_replaced_and_not_shared_whatever_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let mut reader = File::open(&path).unwrap();
        create(&path).unwrap().write_all(b"new").unwrap();
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), mode(&path)), ("new", 0o600));
        assert_eq!(io::read_to_string(&mut reader).unwrap(), "old");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn nothing_is_written_or_read_through_a_link() {
        let directory = tempfile::tempdir().unwrap();
        let (precious, link) = (directory.path().join("precious"), directory.path().join("link"));
        fs::write(&precious, "precious").unwrap();
        symlink(&precious, &link).unwrap();
        let message = create(&link).unwrap_err().to_string();
        assert!(message.contains("symbolic link"), "{message}");
        assert!(open(&link).is_err() && keep(&link).is_err());
        // Nor through one where the file is made that takes the place of another.
        let path = directory.path().join("file");
        fs::write(&path, "old").unwrap();
        symlink(&precious, beside(&path)).unwrap();
        create(&path).unwrap().write_all(b"new").unwrap();
        assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
    }

    #[test]
    fn what_is_kept_is_made_for_its_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "kept").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(io::read_to_string(keep(&path).unwrap()).unwrap(), "kept");
        assert_eq!(mode(&path), 0o600);
        assert_eq!(io::read_to_string(open(&path).unwrap()).unwrap(), "kept");
    }

    #[test]
    fn devices_are_written_to_as_they_are() {
        create(Path::new("/dev/null")).unwrap().write_all(b"gone").unwrap();
        assert!(open(Path::new("/dev/null")).is_err());
    }
}
