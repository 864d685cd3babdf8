import java.util.HashMap;
import java.util.Map;

/** Fills a map, and waits. */
public class Work {
    public static void main(String[] arguments) throws Exception {
        Map<Integer, String> rows = new HashMap<>();
        for (int i = 0; i < 200_000; i++) rows.put(i, "row " + i);
        System.out.println("ready " + rows.size());
        Thread.sleep(Long.MAX_VALUE);
    }
}
