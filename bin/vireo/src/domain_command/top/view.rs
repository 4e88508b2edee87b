//! What is seen of the figures: order, filter, selection, and the text of it.

use std::cmp::Ordering;
use std::collections::VecDeque;

use crossterm::style::Stylize;

use super::figures::{Figure, HISTORY, Usage};
use crate::domain_command::list::colour;
use crate::output::{harmless, readable};
use crate::table::{Cell, Table};

/// What domains are ordered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(super) enum Order {
    #[default]
    Cpu,
    Memory,
    Disk,
    Net,
    Name,
}

/// What a person has chosen to see.
#[derive(Debug, Clone, Default)]
pub(super) struct View {
    pub(super) order: Order,
    pub(super) filter: String,
    /// While the filter is being typed.
    pub(super) typing: bool,
    pub(super) selected: Option<[u8; 16]>,
    /// The last thing that went wrong.
    pub(super) message: String,
}

/// Width of a line of history, in letters.
const SPARKS: usize = 10;
/// From this width on, history is shown.
const WIDE: usize = 120;

impl View {
    /// The domains to show, in order.
    pub(super) fn rows<'a>(&self, all: impl Iterator<Item = &'a Usage>) -> Vec<&'a Usage> {
        let filter = self.filter.to_lowercase();
        let mut rows: Vec<_> =
            all.filter(|usage| usage.domain.name.to_lowercase().contains(&filter)).collect();
        let more = |a: f64, b: f64| b.partial_cmp(&a).unwrap_or(Ordering::Equal);
        rows.sort_by(|a, b| {
            let order = match self.order {
                Order::Cpu => more(a.cpu.now, b.cpu.now),
                Order::Memory => more(a.memory.now, b.memory.now),
                Order::Disk => more(a.disk.now, b.disk.now),
                Order::Net => more(a.net.now, b.net.now),
                Order::Name => a.domain.name.cmp(&b.domain.name),
            };
            let running = b.state.is_active().cmp(&a.state.is_active());
            order.then(running).then_with(|| a.domain.name.cmp(&b.domain.name))
        });
        rows
    }

    /// Moves the selection by `steps` rows.
    pub(super) fn select(&mut self, rows: &[&Usage], steps: isize) {
        let at = rows.iter().position(|usage| Some(usage.domain.uuid.0) == self.selected);
        let last = rows.len().saturating_sub(1);
        let next = at.map_or(0, |at| at.saturating_add_signed(steps).min(last));
        self.selected = rows.get(next).map(|usage| usage.domain.uuid.0);
    }

    /// The whole screen: lines of at most `width` letters, and not more than `height` of them.
    pub(super) fn screen(&self, rows: &[&Usage], width: usize, height: usize, colours: bool) -> Vec<String> {
        let running = rows.iter().filter(|usage| usage.state.is_active()).count();
        let cpu: f64 = rows.iter().map(|usage| usage.cpu.now).sum();
        let mut lines = vec![
            cut(&format!("vireo top: {} domains, {running} active, {cpu:.0}% of a CPU", rows.len()), width),
            String::new(),
        ];
        let heading = cut(&line(&heading(width >= WIDE)), width);
        lines.push(if colours { heading.reverse().to_string() } else { heading });
        // One for the keys below.
        let room = height.saturating_sub(lines.len() + 1);
        let at = rows.iter().position(|usage| Some(usage.domain.uuid.0) == self.selected);
        let first = at.map_or(0, |at| (at + 1).saturating_sub(room));
        for usage in rows.iter().skip(first).take(room) {
            let text = cut(&line(&fields(usage, width >= WIDE)), width);
            let selected = Some(usage.domain.uuid.0) == self.selected;
            let marked = if selected { format!(">{}", text.get(1..).unwrap_or_default()) } else { text };
            lines.push(match colour(usage.state) {
                _ if !colours => marked,
                _ if selected => marked.bold().to_string(),
                Some(colour) if !usage.state.is_active() || usage.state.name() != "running" => {
                    marked.with(colour).to_string()
                }
                _ => marked,
            });
        }
        lines.truncate(height.saturating_sub(1));
        while lines.len() + 1 < height {
            lines.push(String::new());
        }
        lines.push(cut(&self.foot(), width));
        lines
    }

    fn foot(&self) -> String {
        if self.typing {
            return format!("filter: {}_   Enter keeps it, Escape forgets it", harmless(&self.filter));
        }
        if !self.message.is_empty() {
            return harmless(&self.message);
        }
        let filter = match self.filter.as_str() {
            "" => String::new(),
            filter => format!("   (only {})", harmless(filter)),
        };
        format!("order: c CPU  m memory  d disk  n net  a name   / filter   Enter console   q quit{filter}")
    }
}

/// The widths of columns, negative for those that begin at the left; the name's column is the widest.
const WIDTHS: [isize; 8] = [-24, -11, 4, 7, 10, 5, 12, 12];

fn heading(wide: bool) -> Vec<(isize, String)> {
    let words = ["NAME", "STATE", "CPUS", "CPU%", "MEMORY", "MEM%", "DISK/s", "NET/s"];
    columns(words.map(str::to_owned), ["", "", "", ""].map(str::to_owned), wide)
}

/// A domain's fields.
#[expect(clippy::cast_precision_loss, reason = "shown with few digits")]
fn fields(usage: &Usage, wide: bool) -> Vec<(isize, String)> {
    let memory_max = usage.memory_max as f64;
    let percent = if memory_max > 0.0 { usage.memory.now / memory_max * 100.0 } else { 0.0 };
    let words = [
        harmless(&usage.domain.name),
        usage.state.name().to_owned(),
        usage.vcpus.to_string(),
        format!("{:.1}", usage.cpu.now),
        bytes(usage.memory.now * 1024.0),
        format!("{percent:.0}"),
        bytes(usage.disk.now),
        bytes(usage.net.now),
    ];
    let most = |figure: &Figure| figure.history.iter().copied().fold(1.0, f64::max);
    let sparks = [
        sparks(&usage.cpu.history, usage.vcpus as f64 * 100.0),
        sparks(&usage.memory.history, memory_max),
        sparks(&usage.disk.history, most(&usage.disk)),
        sparks(&usage.net.history, most(&usage.net)),
    ];
    columns(words, sparks, wide)
}

/// Words in their columns, with a line of history behind each figure when there is room.
fn columns(words: [String; 8], sparks: [String; 4], wide: bool) -> Vec<(isize, String)> {
    let [cpu, memory, disk, net] = sparks;
    let mut sparks = [(3, cpu), (5, memory), (6, disk), (7, net)].into_iter().peekable();
    let mut columns = Vec::new();
    for (number, (width, word)) in WIDTHS.into_iter().zip(words).enumerate() {
        columns.push((width, word));
        if let Some((_, text)) = sparks.next_if(|(behind, _)| *behind == number)
            && wide
        {
            columns.push((-isize::try_from(SPARKS).unwrap_or(0), text));
        }
    }
    columns
}

fn line(columns: &[(isize, String)]) -> String {
    let mut line = " ".to_owned();
    for (width, word) in columns {
        let room = width.unsigned_abs();
        let word = cut(word, room);
        line.push_str(&if *width < 0 { format!("{word:<room$} ") } else { format!("{word:>room$} ") });
    }
    line
}

/// A number of bytes for people.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates, and is shown only")]
fn bytes(value: f64) -> String {
    readable(value as u64)
}

/// At most `width` letters of a text.
fn cut(text: &str, width: usize) -> String {
    text.chars().take(width).collect()
}

/// A line of history: a block for each of the last samples, as high as its part of `most`.
pub(super) fn sparks(history: &VecDeque<f64>, most: f64) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    const _: () = assert!(SPARKS <= HISTORY);
    let last = history.len().saturating_sub(SPARKS);
    let block = |value: &f64| {
        let part = if most > 0.0 { (value / most).clamp(0.0, 1.0) } else { 0.0 };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 7")]
        let height = (part * 7.0).round() as usize;
        BLOCKS[height.min(7)]
    };
    history.iter().skip(last).map(block).collect()
}

/// The figures as a plain table, for pipes.
pub(super) fn table(rows: &[&Usage], colours: bool) -> String {
    let mut table = Table::new(&["Name", "State", "CPUs", "CPU%", "Memory", "Disk/s", "Net/s"]);
    for usage in rows {
        table.row(vec![
            Cell::from(&usage.domain.name),
            Cell::coloured(usage.state.name(), colour(usage.state)),
            usage.vcpus.to_string().into(),
            format!("{:.1}", usage.cpu.now).into(),
            bytes(usage.memory.now * 1024.0).into(),
            bytes(usage.disk.now).into(),
            bytes(usage.net.now).into(),
        ]);
    }
    table.text(colours)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::figures::Figures;
    use super::super::figures::tests::record;
    use super::*;

    fn figures() -> Figures {
        let begun = Instant::now();
        let mut figures = Figures::default();
        for second in 0..3u64 {
            let busy = [("state.state", 1), ("cpu.time", second * 900_000_000), ("vcpu.current", 1)];
            let idle = [("state.state", 1), ("cpu.time", second), ("block.0.wr.bytes", second << 20)];
            let records =
                [record("idle", &idle), record("busy", &busy), record("a\u{1b}[2J", &[("state.state", 5)])];
            figures.take(&records, begun + Duration::from_secs(second));
        }
        figures
    }

    fn names(view: &View, figures: &Figures) -> Vec<String> {
        view.rows(figures.all()).iter().map(|usage| usage.domain.name.clone()).collect()
    }

    #[test]
    fn domains_are_ordered_and_filtered() {
        let figures = figures();
        let mut view = View::default();
        assert_eq!(names(&view, &figures)[0], "busy");
        view.order = Order::Disk;
        assert_eq!(names(&view, &figures)[0], "idle");
        view.order = Order::Name;
        view.filter = "US".to_owned();
        assert_eq!(names(&view, &figures), ["busy"]);
    }

    #[test]
    fn the_screen_has_its_size_whatever_is_on_it() {
        let figures = figures();
        let mut view = View::default();
        let rows = view.rows(figures.all());
        view.select(&rows, 0);
        for (width, height) in [(0, 0), (1, 1), (10, 3), (80, 24), (200, 50)] {
            let lines = view.screen(&rows, width, height, false);
            assert!(lines.len() <= height.max(1), "{width}x{height}: {}", lines.len());
            assert!(lines.iter().all(|line| line.chars().count() <= width.max(1)), "{width}x{height}");
            assert!(!lines.concat().contains('\u{1b}'));
        }
        assert!(view.screen(&rows, 200, 50, true).concat().contains('█'));
    }

    #[test]
    fn the_selection_stays_within_the_rows_and_with_its_domain() {
        let figures = figures();
        let mut view = View { order: Order::Name, ..View::default() };
        let rows = view.rows(figures.all());
        view.select(&rows, 0);
        view.select(&rows, 1);
        view.select(&rows, 100);
        assert_eq!(view.selected, rows.last().map(|usage| usage.domain.uuid.0));
        view.select(&rows, -100);
        assert_eq!(view.selected, rows.first().map(|usage| usage.domain.uuid.0));
        view.select(&[], 1);
        assert_eq!(view.selected, None);
    }

    #[test]
    fn history_is_drawn_to_scale() {
        let history = |values: &[f64]| values.iter().copied().collect::<VecDeque<_>>();
        assert_eq!(sparks(&history(&[0.0, 50.0, 100.0, 1e9, f64::NAN]), 100.0), "▁▅██▁");
        assert_eq!(sparks(&history(&[1.0]), 0.0), "▁");
    }
}
